// SPDX-License-Identifier: Apache-2.0

package netlistener

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/flexnbd/flexnbd/sdk/transport"
)

const (
	firstPause = 5 * time.Millisecond
	longPause  = time.Second
)

// Socket is a socket that listens, as [net.TCPListener] and [net.UnixListener]
// do: SetDeadline ends a waiting Accept with [os.ErrDeadlineExceeded], Close ends
// it with [net.ErrClosed], and either leaves connections that nobody accepted in
// the kernel's queue.
type Socket interface {
	Accept() (net.Conn, error)
	SetDeadline(time.Time) error
	Close() error
}

// Config is what a listener cannot learn from its socket.
type Config struct {
	// Address is what [transport.Listener]'s Address returns.
	Address transport.Address
	// Peer says who is at the other end of an accepted connection. It is
	// called once for each, by one goroutine at a time, and must not block.
	Peer func(net.Conn) transport.Peer
	// Log takes warnings, of which there is one kind: connections cannot be
	// accepted for want of descriptors or memory. It is called when there is
	// something to say; nil means [hclog.Default].
	Log func() hclog.Logger
}

// Listener keeps the contract of [transport.Listener]; make one with [New].
//
// It lets one Accept at a time wait in the kernel; the others wait for their
// turn. So a context that ends can interrupt that one Accept through the socket's
// deadline and touches no other, no goroutine accepts on behalf of a call that is
// gone, and a connection that nobody took stays in the kernel's queue for the
// next call.
type Listener struct {
	socket Socket
	config Config

	turn   chan struct{} // capacity 1; full while an Accept has its turn
	closed chan struct{}
	close  func() error // runs once, then repeats its result
}

var _ transport.Listener = (*Listener)(nil)

// New makes a listener of socket, which it closes with itself.
func New(socket Socket, config Config) *Listener {
	if config.Log == nil {
		config.Log = hclog.Default
	}
	l := &Listener{
		socket: socket,
		config: config,
		turn:   make(chan struct{}, 1),
		closed: make(chan struct{}),
	}
	l.close = sync.OnceValue(func() error {
		close(l.closed)
		return l.socket.Close()
	})
	return l
}

// Accept waits for the next connection. It fails with the context's error or,
// once the listener is closed, with [net.ErrClosed]; any other error means
// that the listening socket itself is of no more use.
func (l *Listener) Accept(ctx context.Context) (transport.Conn, error) {
	if err := l.takeTurn(ctx); err != nil {
		return transport.Conn{}, err
	}
	defer func() { <-l.turn }()

	var pause time.Duration
	for {
		socket, err := l.acceptOne(ctx)
		switch {
		case err == nil:
			return transport.Conn{Socket: socket, Peer: l.config.Peer(socket)}, nil
		case isShortage(err):
			if pause == 0 {
				l.config.Log().Warn("out of descriptors or memory; new connections wait until some are free. Raise the limit on open files (ulimit -n, LimitNOFILE=) if this lasts",
					"address", l.config.Address.String(), "error", err)
			}
			pause = min(max(2*pause, firstPause), longPause)
			if err := l.sleep(ctx, pause); err != nil {
				return transport.Conn{}, err
			}
		case isPassing(err):
			// That connection is gone, and out of the queue.
		default:
			return transport.Conn{}, err
		}
	}
}

func (l *Listener) takeTurn(ctx context.Context) error {
	// A select would choose at random between a free turn and an end that
	// has come already.
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-l.closed:
		return net.ErrClosed
	case l.turn <- struct{}{}:
		return nil
	}
}

// acceptOne asks the kernel for a connection; only the Accept whose turn it is
// calls it. A connection that was taken is returned even if the context has
// ended meanwhile: nobody else could be given it.
func (l *Listener) acceptOne(ctx context.Context) (net.Conn, error) {
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		// A socket that cannot take a deadline is closed, and its Accept
		// has returned.
		_ = l.socket.SetDeadline(time.Unix(1, 0))
		close(interrupted)
	})
	socket, err := l.socket.Accept()
	if !stop() {
		// Wait, or the deadline might yet hit the next Accept.
		<-interrupted
		_ = l.socket.SetDeadline(time.Time{})
	}
	switch {
	case errors.Is(err, net.ErrClosed):
		return nil, net.ErrClosed
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, ctx.Err()
	}
	return socket, err
}

func (l *Listener) sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-l.closed:
		return net.ErrClosed
	case <-timer.C:
		return nil
	}
}

// Address returns the Config's.
func (l *Listener) Address() transport.Address { return l.config.Address }

// Close stops listening. Connections that nobody accepted are broken off by the
// kernel. A second Close does nothing and returns what the first one did.
func (l *Listener) Close() error { return l.close() }
