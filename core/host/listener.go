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
	return h.listenWith(program, addr, func(l *Listener) error { return l.start(ctx) })
}

// ListenWhenFree is Listen that tries again for as long as the address can't be
// listened at, since somebody else is about to leave it: at once, then every
// eagerPause for eagerTime, then every second, until ctx ends. refused is told of
// each error. One process does so, unless it is lost: then a new one goes on, within
// the bounds in restart.go.
func (h *Host) ListenWhenFree(ctx context.Context, program Program, addr transport.Address, refused func(error)) (*Listener, error) {
	return h.listenWith(program, addr, func(l *Listener) error { return l.startWhenFree(ctx, refused) })
}

func (h *Host) listenWith(program Program, addr transport.Address, start func(*Listener) error) (*Listener, error) {
	l := &Listener{host: h, program: program, log: h.log, address: addr}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	if err := start(l); err != nil {
		l.cancel()
		return nil, err
	}
	l.address = l.listener.Address()
	return l, nil
}

// How often ListenWhenFree tries.
const (
	eagerPause  = 10 * time.Millisecond
	eagerTime   = time.Second
	listenPause = time.Second
)

// start starts a process that listens.
func (l *Listener) start(ctx context.Context) error {
	process, err := l.host.Start(ctx, l.program)
	if err != nil {
		return err
	}
	listener, err := l.listen(ctx, process)
	if err != nil {
		return errors.Join(err, endAfter(process, err))
	}
	l.take(process, listener)
	return nil
}

// listen listens in a process.
func (l *Listener) listen(ctx context.Context, process *Process) (transport.Listener, error) {
	return watched(ctx, process, func(ctx context.Context) (transport.Listener, error) {
		return process.Transport().Listen(ctx, l.address)
	})
}

// endAfter ends a process because of an error of listen.
func endAfter(process *Process, err error) error {
	if errors.Is(err, wire.ErrPluginGone) {
		return process.endLost()
	}
	return process.end()
}

func (l *Listener) take(process *Process, listener transport.Listener) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.process, l.listener = process, listener
}

// startWhenFree is start for ListenWhenFree.
func (l *Listener) startWhenFree(ctx context.Context, refused func(error)) error {
	t := trying{listener: l, refused: refused, began: time.Now()}
	for {
		if err := l.bound.retry(ctx, l.log, l.program.Name, t.start); err != nil {
			if ctx.Err() == nil {
				err = fmt.Errorf("transport %w", err)
			}
			return err
		}
		err := t.untilFree(ctx)
		switch {
		case err == nil:
			l.take(t.process, t.made)
			return nil
		case ctx.Err() != nil:
			return errors.Join(err, endAfter(t.process, err))
		}
		l.log.Error("transport was lost before it could listen and is replaced", "plugin", l.program.Name, "plugin_pid", t.process.PID(), "address", l.address, "error", err)
		if err := t.process.endLost(); err != nil {
			return err
		}
	}
}

// trying is a process that tries to listen at an address which may be in use.
type trying struct {
	listener *Listener
	refused  func(error)
	began    time.Time

	process *Process
	made    transport.Listener
	refusal error // why nothing was made
}

// start starts a process and makes it try once. A refusal is no failure of it.
func (t *trying) start(ctx context.Context) (err error) {
	if t.process, err = t.listener.host.Start(ctx, t.listener.program); err != nil {
		return err
	}
	if err := t.try(ctx); err != nil {
		return errors.Join(err, endAfter(t.process, err))
	}
	return nil
}

// try tries once. The error is that of a process which is of no more use: it was
// lost, or did not answer before ctx ended.
func (t *trying) try(ctx context.Context) error {
	t.made, t.refusal = t.listener.listen(ctx, t.process)
	if errors.Is(t.refusal, wire.ErrPluginGone) || t.refusal != nil && ctx.Err() != nil {
		return t.refusal
	}
	return nil
}

// untilFree tries until the process listens. The error is try's, or the last refusal
// when ctx ends.
func (t *trying) untilFree(ctx context.Context) error {
	for t.refusal != nil {
		t.refused(t.refusal)
		pause := listenPause
		if time.Since(t.began) < eagerTime {
			pause = eagerPause
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return t.refusal
		}
		if err := attempt(ctx, t.try); err != nil {
			return err
		}
	}
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
		conn, err := watched(ctx, process, listener.Accept)
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

// replace puts a new process in the place of one that ended with why.
func (l *Listener) replace(ctx context.Context, old *Process, listener transport.Listener, why error) error {
	if !errors.Is(why, wire.ErrPluginGone) {
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
