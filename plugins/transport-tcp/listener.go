// SPDX-License-Identifier: GPL-3.0-or-later

package tcp

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/flexnbd/flexnbd/sdk/transport"
)

const (
	firstPause = 5 * time.Millisecond
	longPause  = time.Second
)

// acceptor is what a listener needs of *net.TCPListener. Tests put one in
// between that runs out of descriptors.
type acceptor interface {
	AcceptTCP() (*net.TCPConn, error)
	SetDeadline(time.Time) error
	Addr() net.Addr
	Close() error
}

// listener lets one Accept at a time wait in the kernel; the others wait for
// their turn. So a context that ends can interrupt that one Accept through the
// socket's deadline and touches no other, no goroutine accepts on behalf of a
// call that is gone, and a connection that nobody took stays in the kernel's
// queue for the next call.
type listener struct {
	socket acceptor
	log    func() hclog.Logger

	turn   chan struct{} // capacity 1; full while an Accept has its turn
	closed chan struct{}
	close  func() error // runs once, then repeats its result
}

func newListener(socket acceptor, log func() hclog.Logger) *listener {
	l := &listener{
		socket: socket,
		log:    log,
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
func (l *listener) Accept(ctx context.Context) (transport.Conn, error) {
	if err := l.takeTurn(ctx); err != nil {
		return transport.Conn{}, err
	}
	defer func() { <-l.turn }()

	var pause time.Duration
	for {
		socket, err := l.acceptOne(ctx)
		switch {
		case err == nil:
			return connect(socket), nil
		case isShortage(err):
			if pause == 0 {
				l.log().Warn("out of descriptors or memory; new connections wait until some are free. Raise the limit on open files (ulimit -n, LimitNOFILE=) if this lasts",
					"address", l.Address().String(), "error", err)
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

func (l *listener) takeTurn(ctx context.Context) error {
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
func (l *listener) acceptOne(ctx context.Context) (*net.TCPConn, error) {
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		// A socket that cannot take a deadline is closed, and AcceptTCP
		// has returned.
		_ = l.socket.SetDeadline(time.Unix(1, 0))
		close(interrupted)
	})
	socket, err := l.socket.AcceptTCP()
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

func (l *listener) sleep(ctx context.Context, d time.Duration) error {
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

// Address returns the address the kernel gave the socket.
func (l *listener) Address() transport.Address {
	at := l.socket.Addr().(*net.TCPAddr).AddrPort()
	return transport.Address{Addr: at.Addr().String(), Port: at.Port()}
}

// Close stops listening. Connections that nobody accepted are reset by the
// kernel. A second Close does nothing and returns what the first one did.
func (l *listener) Close() error {
	return l.close()
}

// isShortage tells errors that end when something else is closed or freed. The
// connection is still in the queue.
func isShortage(err error) bool {
	return isAny(err, syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM)
}

// isPassing tells errors that belong to the connection and not to the
// listener: accept(2) on Linux reports what already went wrong on the new
// socket, and wants these treated like "try again".
func isPassing(err error) bool {
	return isAny(err, syscall.ECONNABORTED, syscall.ECONNRESET, syscall.EPROTO,
		syscall.ENETDOWN, syscall.ENOPROTOOPT, syscall.EHOSTDOWN, syscall.ENONET,
		syscall.EHOSTUNREACH, syscall.EOPNOTSUPP, syscall.ENETUNREACH,
		syscall.ETIMEDOUT, syscall.EPERM)
}

func isAny(err error, errnos ...syscall.Errno) bool {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return false
	}
	for _, e := range errnos {
		if errno == e {
			return true
		}
	}
	return false
}
