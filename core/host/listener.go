// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/flexnbd/flexnbd/sdk/transport"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// Listener is a transport.Listener that outlives its transport's process: when
// that ends, a new one listens at the same address, with the port that the first
// one chose. Connections that were accepted before are not touched by it.
//
// Accept is for one goroutine at a time; the rest for any.
type Listener struct {
	host    *Host
	program Program
	log     hclog.Logger
	address transport.Address // where it listens, port and all

	mu       sync.Mutex
	process  *Process
	listener transport.Listener
	closed   bool
	bound    restartBound
}

var _ transport.Listener = (*Listener)(nil)

// Listen starts a transport and listens at addr. ctx bounds the start alone.
func (h *Host) Listen(ctx context.Context, program Program, addr transport.Address) (*Listener, error) {
	l := &Listener{host: h, program: program, log: h.log}
	if err := l.start(ctx, addr); err != nil {
		return nil, err
	}
	l.address = l.listener.Address()
	return l, nil
}

func (l *Listener) start(ctx context.Context, addr transport.Address) error {
	process, err := l.host.Start(ctx, l.program)
	if err != nil {
		return err
	}
	listener, err := process.Transport().Listen(ctx, addr)
	if err != nil {
		return errors.Join(err, process.end())
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errors.Join(errors.New("closed"), process.end())
	}
	l.process, l.listener = process, listener
	return nil
}

// Address implements [transport.Listener].
func (l *Listener) Address() transport.Address { return l.address }

// Process returns the process that listens now, or did last.
func (l *Listener) Process() *Process {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.process
}

// Accept implements [transport.Listener]. It also replaces a process that ended
// or was stopped by a signal.
func (l *Listener) Accept(ctx context.Context) (transport.Conn, error) {
	for {
		l.mu.Lock()
		process, listener := l.process, l.listener
		l.mu.Unlock()
		accepting, stop := withStall(ctx, process)
		conn, err := listener.Accept(accepting)
		stop()
		switch {
		case err == nil:
			return conn, nil
		case ctx.Err() != nil:
			return transport.Conn{}, ctx.Err()
		case !errors.Is(err, wire.ErrPluginGone) && accepting.Err() == nil:
			return transport.Conn{}, err
		}
		if err := l.restart(ctx, process, listener); err != nil {
			return transport.Conn{}, err
		}
	}
}

// withStall returns a context that ends with ctx or when the process is stopped
// by a signal.
func withStall(ctx context.Context, p *Process) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	var waiter sync.WaitGroup
	waiter.Go(func() {
		select {
		case <-p.Stalled():
			cancel()
		case <-done:
		}
	})
	return ctx, func() {
		close(done)
		waiter.Wait()
		cancel()
	}
}

// restart puts a new process in the place of old.
func (l *Listener) restart(ctx context.Context, old *Process, listener transport.Listener) error {
	if err := old.stopNow(); err != nil {
		return err
	}
	_ = listener.Close() // nobody is at its other end; it frees this one
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		if !l.bound.allow(time.Now()) {
			return fmt.Errorf("transport %s was restarted %d times within %v and is given up", l.program.Name, maxRestarts, restartWindow)
		}
		starting, cancel := context.WithTimeout(ctx, restartTimeout)
		err := l.start(starting, l.address)
		cancel()
		if err == nil {
			l.log.Warn("transport restarted", "plugin", l.program.Name, "plugin_pid", l.Process().PID(), "address", l.address)
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		l.log.Error("transport can't be restarted yet", "plugin", l.program.Name, "error", err, "again_in", pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Close implements [transport.Listener] and ends the process. No Accept may be
// under way.
func (l *Listener) Close() error {
	l.mu.Lock()
	process, listener, closed := l.process, l.listener, l.closed
	l.closed = true
	l.mu.Unlock()
	if closed {
		return nil
	}
	err := listener.Close()
	if errors.Is(err, wire.ErrPluginGone) {
		err = nil // then nobody listens any more
	}
	return errors.Join(err, process.Stop(context.Background()))
}
