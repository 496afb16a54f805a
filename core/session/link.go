// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"context"
	"net"
	"sync/atomic"
	"time"
)

// link is the session's own connection, as a [Migration] sees it, and the sender
// that it has turned out to be.
type link struct {
	conn   net.Conn
	peer   string
	cut    context.CancelFunc
	ended  chan struct{}
	fenced atomic.Bool // Cut was called
	sender Sender      // nil for a client
	bye    bool        // the client sent DISC
}

var _ Link = (*link)(nil)

// Cut implements [Link].
func (l *link) Cut() {
	l.fenced.Store(true)
	l.cut()
}

// Ended implements [Link].
func (l *link) Ended() <-chan struct{} { return l.ended }

// Peer implements [Link].
func (l *link) Peer() string { return l.peer }

// A sender whose machine has lost its power says nothing any more, and another one
// is turned away while it counts as connected: so it is asked for a sign of life
// after senderIdle, and then until it has missed senderProbes, 10 seconds in all.
const (
	senderIdle   = 4 * time.Second
	senderProbe  = 2 * time.Second
	senderProbes = 3
)

// adopt makes the connection a sender's.
func (l *link) adopt(s Sender) {
	l.sender = s
	if tcp, ok := l.conn.(*net.TCPConn); ok {
		_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: senderIdle, Interval: senderProbe, Count: senderProbes})
	}
}

// end says that nothing of the connection is carried out any more.
func (l *link) end() {
	if l.sender != nil {
		l.sender.Left(l.bye)
	}
	close(l.ended)
}
