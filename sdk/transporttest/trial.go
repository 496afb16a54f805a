// SPDX-License-Identifier: Apache-2.0

package transporttest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/flexnbd/flexnbd/sdk/transport"
)

// trial is one check under way. It remembers every call that it started and
// everything that was opened, so that a check can return at any point.
type trial struct {
	Subject
	patience time.Duration

	mu    sync.Mutex
	ended bool
	open  []io.Closer
	calls []<-chan struct{}
}

// call is a method of the transport, running in a goroutine because it might
// hang.
type call[T any] struct {
	what     string
	patience time.Duration
	done     chan struct{}
	value    T
	err      error
}

// begin starts f, which is described by what.
func begin[T any](t *trial, what string, f func() (T, error)) *call[T] {
	c := &call[T]{what: what, patience: t.patience, done: make(chan struct{})}
	t.mu.Lock()
	t.calls = append(t.calls, c.done)
	t.mu.Unlock()
	go func() {
		defer close(c.done)
		c.value, c.err = f()
	}()
	return c
}

var errHangs = errors.New("hangs")

// wait returns what the call returned, or an error that is errHangs.
func (c *call[T]) wait() (T, error) {
	timer := time.NewTimer(c.patience)
	defer timer.Stop()
	select {
	case <-c.done:
		if c.err != nil {
			return c.value, fmt.Errorf("%s: %w", c.what, c.err)
		}
		return c.value, nil
	case <-timer.C:
		var none T
		return none, fmt.Errorf("%s: %w: it has not returned within %v", c.what, errHangs, c.patience)
	}
}

// isDone tells whether the call has returned.
func (c *call[T]) isDone() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// listen listens at addr.
func (t *trial) listen(ctx context.Context, addr transport.Address) (transport.Listener, error) {
	return begin(t, "Listen at "+addr.String(), func() (transport.Listener, error) {
		l, err := t.Transport.Listen(ctx, addr)
		if err == nil && l == nil {
			return nil, errors.New("returned neither a listener nor an error")
		}
		if err == nil {
			t.keep(l)
		}
		return l, err
	}).wait()
}

// accept begins an Accept.
func (t *trial) accept(ctx context.Context, l transport.Listener) *call[transport.Conn] {
	return begin(t, "Accept", func() (transport.Conn, error) {
		return t.keepConn(l.Accept(ctx))
	})
}

// dial begins a Dial.
func (t *trial) dial(ctx context.Context, addr, bind transport.Address) *call[transport.Conn] {
	return begin(t, "Dial "+addr.String(), func() (transport.Conn, error) {
		return t.keepConn(t.Transport.Dial(ctx, addr, bind))
	})
}

// close closes l.
func (t *trial) close(l transport.Listener) error {
	_, err := begin(t, "Close of the listener", func() (struct{}, error) {
		return struct{}{}, l.Close()
	}).wait()
	return err
}

func (t *trial) keepConn(c transport.Conn, err error) (transport.Conn, error) {
	if err != nil {
		return transport.Conn{}, err
	}
	if c.Socket == nil {
		return transport.Conn{}, errors.New("returned neither a socket nor an error")
	}
	t.keep(c.Socket)
	// Nothing that a check does with a socket may hang either. It ends a little
	// before its step does, so that it can say how.
	return c, c.Socket.SetDeadline(time.Now().Add(t.patience - t.patience/10))
}

// keep has c closed when the trial ends; at once, if it comes too late.
func (t *trial) keep(c io.Closer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		_ = c.Close()
		return
	}
	t.open = append(t.open, c)
}

// end closes everything, last opened first, and waits for every call. The
// context that the calls were given has ended. Errors of a second Close are
// nobody's business.
func (t *trial) end() error {
	t.mu.Lock()
	t.ended = true
	open, calls := t.open, t.calls
	t.mu.Unlock()

	// A Close that hangs is waited for like any other call.
	closing := make(chan struct{})
	go func() {
		defer close(closing)
		for i := len(open) - 1; i >= 0; i-- {
			_ = open[i].Close()
		}
	}()
	timer := time.NewTimer(t.patience)
	defer timer.Stop()
	for _, done := range append(calls, closing) {
		select {
		case <-done:
		case <-timer.C:
			return fmt.Errorf("after the check: %w: a call has not returned within %v of its context's end and its listener's Close", errHangs, t.patience)
		}
	}
	return nil
}
