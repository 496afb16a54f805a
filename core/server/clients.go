// SPDX-License-Identifier: GPL-3.0-or-later

package server

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/flexnbd/flexnbd/core/acl"
	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/core/session"
	"github.com/flexnbd/flexnbd/sdk/transport"
)

// clients are the connections there are. mu is a leaf lock: nothing is called
// with it held but cancel functions.
//
// Only clients are limited by most. What a migration needs has to come in however
// many of them there are, the COMMIT above all: without it nobody serves the disk.
// But a connection says what it is only in its handshake. So one that comes when the
// places are taken is not turned away at once: it gets a spare place, and little
// time. If it turns out to be a migration's it was right to let it in; if it is a
// client's, it is refused when it asks for the disk. And if the spare places are
// taken too, the oldest of them gives way to the newest. So those who say nothing
// can't keep a migration out, not even for as long as their handshake may take, and
// still every kind of connection is bounded.
type clients struct {
	guard *acl.Guard
	most  int
	// spares is how many spare places there are: none where no migration can come.
	spares int

	mu     sync.Mutex
	last   int // the newest connection's number
	open   map[*connection]struct{}
	placed [places]int // how many of open are where
}

// place is what a connection counts as.
type place int

const (
	// clientPlace is one of most. Handshakes take them too while there are any.
	clientPlace place = iota
	// sparePlace is a handshake's that came later, or that of a connection for
	// COMMIT, which has nothing to do but that.
	sparePlace
	// senderPlace is one of a migration's that brings a disk.
	senderPlace
	// noPlace is a connection's that was cut for others, and is about to end.
	noPlace

	places
)

const (
	// maxSpares is far more than come at a time by accident. A handshake costs a
	// few KiB.
	maxSpares = 32
	// maxEnding bounds those that were cut and have not ended, which take no time
	// unless a disk hangs under the COMMIT of each of them.
	maxEnding = 8 * maxSpares
	// spareTime is how long the handshake of a connection in a spare place may
	// take: enough for some round trips, and soon over for whoever says nothing.
	spareTime = 3 * time.Second
	// maxSenders bounds the connections of those who bring a disk. Our own
	// source has 4.
	maxSenders = 64
)

// connection is one client's, or one of a migration's.
type connection struct {
	clients *clients
	number  int
	peer    transport.Peer
	ctx     context.Context
	cut     context.CancelCauseFunc // ends the connection
	place   place                   // guarded by clients.mu
}

var _ session.Admission = (*connection)(nil)

// name is the connection's thread in the log.
func (cl *connection) name() string { return fmt.Sprintf("client-%d", cl.number) }

// admit enters a peer among the clients, or says why it is not served. spare means
// that it came when there was no place for a client.
//
// It is entered before the access list is asked, so that a list which is replaced
// meanwhile either refuses it here or finds it there.
func (c *clients) admit(ctx context.Context, peer transport.Peer) (_ *connection, spare bool, why string) {
	c.mu.Lock()
	spare = c.placed[clientPlace] >= c.most
	if spare && (c.spares == 0 || c.placed[noPlace] >= maxEnding) {
		c.mu.Unlock()
		return nil, false, c.full()
	}
	c.last++
	cl := &connection{clients: c, number: c.last, peer: peer}
	cl.ctx, cl.cut = context.WithCancelCause(ctx)
	if spare {
		cl.place = sparePlace
	}
	c.open[cl] = struct{}{}
	c.placed[cl.place]++
	c.mu.Unlock()
	if !c.guard.Allows(peer) {
		c.leave(cl)
		return nil, false, "the access list does not allow it"
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bound()
	return cl, spare, ""
}

// full is why a client is not let in.
func (c *clients) full() string {
	return fmt.Sprintf("%d clients are connected already; see --max-clients", c.most)
}

// move gives a connection another place, if it was not cut meanwhile. The caller
// holds mu.
func (c *clients) move(cl *connection, to place) {
	if _, here := c.open[cl]; !here || cl.place == noPlace {
		return
	}
	c.placed[cl.place]--
	cl.place = to
	c.placed[to]++
}

// bound cuts the oldest connection in a spare place if there are too many of them.
// The caller holds mu.
func (c *clients) bound() {
	if c.placed[sparePlace] <= c.spares {
		return
	}
	var oldest *connection
	for cl := range c.open {
		if cl.place == sparePlace && (oldest == nil || cl.number < oldest.number) {
			oldest = cl
		}
	}
	c.move(oldest, noPlace)
	oldest.cut(errGaveWay)
}

// Client implements [session.Admission].
func (cl *connection) Client() (refusal string) {
	c := cl.clients
	c.mu.Lock()
	defer c.mu.Unlock()
	if cl.place == clientPlace {
		return ""
	}
	if c.placed[clientPlace] >= c.most {
		return c.full()
	}
	c.move(cl, clientPlace) // somebody has left meanwhile
	return ""
}

// Migration implements [session.Admission].
func (cl *connection) Migration(purpose nbd.MigrationPurpose) {
	c := cl.clients
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case purpose == nbd.MigrationCommit:
		c.move(cl, sparePlace)
		c.bound()
	case c.placed[senderPlace] >= maxSenders:
		c.move(cl, noPlace)
		cl.cut(errTooManySenders)
	default:
		c.move(cl, senderPlace)
	}
}

// leave takes a connection out again.
func (c *clients) leave(cl *connection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.open, cl)
	c.placed[cl.place]--
	cl.cut(nil)
}

// count is how many clients there are, those in their handshake included.
func (c *clients) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.placed[clientPlace]
}

// connections is how many connections of every kind there are.
func (c *clients) connections() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.open)
}

// Why a connection was cut.
var (
	errEvicted        = errors.New("the access list does not allow it any more")
	errGaveWay        = errors.New("too many connections that are no client's, and this is the oldest; see --max-clients")
	errTooManySenders = fmt.Errorf("a migration has more than %d connections", maxSenders)
)

// replaceACL puts another list in force and cuts those whom it does not allow.
func (c *clients) replaceACL(entries []string) error {
	if err := c.guard.Replace(entries); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for cl := range c.open {
		if !c.guard.Allows(cl.peer) {
			cl.cut(errEvicted)
		}
	}
	return nil
}
