// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/flexnbd/flexnbd/sdk/transport"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// Listener is a transport.Listener that outlives its transport's process: when
// that ends, is stopped, hangs, or says that it can't accept any more, a new one
// listens at the same address, with the port that the first one chose.
// Connections that were accepted before are not touched by it.
//
// Accept is for one goroutine at a time; the rest for any.
type Listener struct {
	host    *Host
	program Program
	log     hclog.Logger
	address transport.Address // where it listens, port and all

	ctx    context.Context // ends with Close
	cancel context.CancelFunc

	whenFree func(error) // not nil while ListenWhenFree tries

	turn   sync.Mutex // held by Accept, and by Close at its end
	bound  restartBound
	closed bool

	mu       sync.Mutex // taken after turn
	process  *Process
	listener transport.Listener
}

var _ transport.Listener = (*Listener)(nil)

// Listen starts a transport and listens at addr. ctx bounds the start alone.
func (h *Host) Listen(ctx context.Context, program Program, addr transport.Address) (*Listener, error) {
	return h.listenWith(ctx, program, addr, nil)
}

// ListenWhenFree is Listen that tries again for as long as the address can't be
// listened at, since somebody else is about to leave it: at once, then every
// eagerPause for eagerTime, then every second, until ctx ends. refused is told of
// each error. The process is started once.
func (h *Host) ListenWhenFree(ctx context.Context, program Program, addr transport.Address, refused func(error)) (*Listener, error) {
	return h.listenWith(ctx, program, addr, refused)
}

func (h *Host) listenWith(ctx context.Context, program Program, addr transport.Address, refused func(error)) (*Listener, error) {
	l := &Listener{host: h, program: program, log: h.log, address: addr, whenFree: refused}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	if err := l.start(ctx); err != nil {
		l.cancel()
		return nil, err
	}
	l.address, l.whenFree = l.listener.Address(), nil
	return l, nil
}

// How often ListenWhenFree tries.
const (
	eagerPause  = 10 * time.Millisecond
	eagerTime   = time.Second
	listenPause = time.Second
)

// listen listens in a process, with the patience that whenFree asks for.
func (l *Listener) listen(ctx context.Context, process *Process) (transport.Listener, error) {
	for began := time.Now(); ; {
		listener, err := process.Transport().Listen(ctx, l.address)
		if err == nil || l.whenFree == nil || errors.Is(err, wire.ErrPluginGone) {
			return listener, err
		}
		l.whenFree(err)
		pause := listenPause
		if time.Since(began) < eagerTime {
			pause = eagerPause
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// start starts a process that listens.
func (l *Listener) start(ctx context.Context) error {
	process, err := l.host.Start(ctx, l.program)
	if err != nil {
		return err
	}
	listener, err := l.listen(ctx, process)
	switch {
	case errors.Is(err, wire.ErrPluginGone):
		return errors.Join(err, process.endLost())
	case err != nil:
		return errors.Join(err, process.end())
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.process, l.listener = process, listener
	return nil
}

// Address implements [transport.Listener].
func (l *Listener) Address() transport.Address { return l.address }

// Process returns the process that listens now, or did last.
func (l *Listener) Process() *Process {
	process, _ := l.latest()
	return process
}

func (l *Listener) latest() (*Process, transport.Listener) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.process, l.listener
}

// Accept implements [transport.Listener]. It also replaces a process that was
// lost. Besides the context's error and [net.ErrClosed] after Close, its only
// error is that no process can be had any more.
func (l *Listener) Accept(ctx context.Context) (transport.Conn, error) {
	l.turn.Lock()
	defer l.turn.Unlock()
	both, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.ctx, cancel)()
	conn, err := l.accept(both)
	switch {
	case err == nil:
		return conn, nil
	case l.ctx.Err() != nil:
		return transport.Conn{}, fmt.Errorf("accept at %s: %w", l.address, net.ErrClosed)
	case ctx.Err() != nil:
		return transport.Conn{}, ctx.Err()
	}
	return transport.Conn{}, err
}

// accept accepts on as many processes as it takes.
func (l *Listener) accept(ctx context.Context) (transport.Conn, error) {
	for {
		process, listener := l.latest()
		conn, err := acceptWatched(ctx, process, listener)
		switch {
		case err == nil:
			return conn, nil
		case ctx.Err() != nil:
			return transport.Conn{}, ctx.Err()
		}
		if err := l.replace(ctx, process, listener, err); err != nil {
			return transport.Conn{}, err
		}
	}
}

// acceptWatched gives up when the process is lost.
func acceptWatched(ctx context.Context, process *Process, listener transport.Listener) (transport.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	var watcher sync.WaitGroup
	watcher.Go(func() {
		if process.awaitLoss(ctx) {
			cancel()
		}
	})
	defer watcher.Wait()
	defer cancel()
	return listener.Accept(ctx)
}

// replace puts a new process in the place of one that ended with why.
func (l *Listener) replace(ctx context.Context, old *Process, listener transport.Listener, why error) error {
	if !errors.Is(why, wire.ErrPluginGone) && !errors.Is(why, context.Canceled) {
		l.log.Error("transport can't accept connections and is replaced", "plugin", l.program.Name, "error", why)
		_ = old.stopNow() // the error comes again
	}
	if err := old.endLost(); err != nil {
		return err
	}
	_ = listener.Close() // nobody is at its other end; it frees this one
	if err := l.bound.retry(ctx, l.log, l.program.Name, l.start); err != nil {
		return fmt.Errorf("transport %w", err)
	}
	l.log.Warn("transport restarted", "plugin", l.program.Name, "plugin_pid", l.Process().PID(), "address", l.address)
	return nil
}

// Close implements [transport.Listener] and ends the process. An Accept that is
// under way returns.
func (l *Listener) Close() error {
	l.cancel()
	l.turn.Lock()
	defer l.turn.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	process, listener := l.latest()
	return errors.Join(process.letGo(listener.Close), process.Stop(context.Background()))
}
