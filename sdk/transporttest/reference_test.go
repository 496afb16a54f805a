// SPDX-License-Identifier: Apache-2.0

package transporttest

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/flexnbd/flexnbd/sdk/transport"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// reference keeps the contract in the fewest lines, on Unix sockets or TCP, so
// that the suite can be tested without the stock transport. Connections and
// listeners that a test's broken variants forget are closed with the test.
type reference struct {
	network string
	tb      testing.TB
}

func (r reference) Listen(ctx context.Context, addr transport.Address) (transport.Listener, error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, r.network, r.native(addr))
	if err != nil {
		return nil, err
	}
	r.tb.Cleanup(func() { _ = l.Close() })
	return &referenceListener{reference: r, socket: l, turn: make(chan struct{}, 1), closed: make(chan struct{})}, nil
}

func (r reference) Dial(ctx context.Context, addr, bind transport.Address) (transport.Conn, error) {
	var dialer net.Dialer
	if bind.Addr != "" {
		dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(bind.Addr)}
	}
	conn, err := r.conn(dialer.DialContext(ctx, r.network, r.native(addr)))
	if at, ok := ctx.Deadline(); ok && err != nil && !time.Now().Before(at) {
		// The socket's own deadline may be a moment ahead of the context.
		err = context.DeadlineExceeded
	}
	return conn, err
}

func (r reference) native(addr transport.Address) string {
	if r.network == "unix" {
		return addr.Addr
	}
	return addr.String()
}

func (r reference) conn(socket net.Conn, err error) (transport.Conn, error) {
	if err != nil {
		return transport.Conn{}, err
	}
	peer := transport.Peer{Network: r.network, Address: socket.RemoteAddr().String()}
	return transport.Conn{Socket: socket, Peer: peer}, nil
}

type referenceListener struct {
	reference
	socket net.Listener
	turn   chan struct{}
	closed chan struct{}
	once   sync.Once
}

func (l *referenceListener) Accept(ctx context.Context) (transport.Conn, error) {
	select {
	case <-ctx.Done():
		return transport.Conn{}, ctx.Err()
	case <-l.closed:
		return transport.Conn{}, net.ErrClosed
	case l.turn <- struct{}{}:
	}
	defer func() { <-l.turn }()
	socket := l.socket.(interface{ SetDeadline(time.Time) error })
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = socket.SetDeadline(time.Unix(1, 0))
		close(interrupted)
	})
	conn, err := l.conn(l.socket.Accept())
	if !stop() {
		<-interrupted
		_ = socket.SetDeadline(time.Time{})
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = ctx.Err()
	}
	return conn, err
}

func (l *referenceListener) Address() transport.Address {
	if at, ok := l.socket.Addr().(*net.TCPAddr); ok {
		return transport.Address{Addr: at.IP.String(), Port: uint16(at.Port)}
	}
	return transport.Address{Addr: l.socket.Addr().String()}
}

func (l *referenceListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.socket.Close()
}

// tcpSubject and unixSubject are factories of correct subjects.
func tcpSubject(tb testing.TB) Subject {
	return Subject{
		Transport:   reference{network: "tcp", tb: tb},
		Listen:      transport.Address{Addr: "127.0.0.1"},
		PeerAddress: LocalAddress,
		Bind:        transport.Address{Addr: "127.0.0.2"},
	}
}

func unixSubject(tb testing.TB) Subject {
	return Subject{
		Transport: reference{network: "unix", tb: tb},
		Listen:    transport.Address{Addr: filepath.Join(tb.TempDir(), "s")},
	}
}

// relaySubject hands over one end of a socketpair for each accepted socket.
func relaySubject(tb testing.TB) Subject {
	s := tcpSubject(tb)
	w := &twisted{Transport: s.Transport}
	eachAccepted(relayed(relay))(tb, w)
	s.Transport = w
	return s
}

func TestCorrectTransportsPass(t *testing.T) {
	unresponsive := UnresponsiveTCP(t)
	t.Run("tcp", func(t *testing.T) {
		Run(t, func(tb testing.TB) Subject {
			s := tcpSubject(tb)
			s.Unresponsive = unresponsive
			return s
		})
	})
	t.Run("unix", func(t *testing.T) { Run(t, unixSubject) })
	t.Run("relay", func(t *testing.T) { Run(t, relaySubject) })
}
