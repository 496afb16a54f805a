// SPDX-License-Identifier: GPL-3.0-or-later

package server

import (
	"context"
	"errors"
	"sync"

	"github.com/flexnbd/flexnbd/sdk/transport"
)

// door is where clients come in. It can be moved, and it can be shut for good. One
// goroutine accepts. changing comes before mu, which is a leaf.
type door struct {
	changing sync.Mutex // held until a listener is closed, so that whoever shuts a door finds it shut

	mu       sync.Mutex
	listener transport.Listener // nil once it is shut
	wake     context.CancelFunc // ends the Accept that is under way; nil if none is
}

// errShut: nobody comes in any more.
var errShut = errors.New("the server does not listen any more")

// accept waits for the next connection, wherever the door is by then.
func (d *door) accept(ctx context.Context) (transport.Conn, error) {
	for {
		l, here, release := d.stand(ctx)
		if l == nil {
			release()
			return transport.Conn{}, errShut
		}
		conn, err := l.Accept(here)
		moved := here.Err() != nil && ctx.Err() == nil
		release()
		if err == nil || !moved {
			return conn, err
		}
	}
}

// stand returns the listener and a context that ends when it is not the one any
// more.
func (d *door) stand(ctx context.Context) (transport.Listener, context.Context, context.CancelFunc) {
	d.mu.Lock()
	defer d.mu.Unlock()
	here, cancel := context.WithCancel(ctx)
	d.wake = cancel
	return d.listener, here, cancel
}

func (d *door) moveTo(l transport.Listener) error {
	d.changing.Lock()
	defer d.changing.Unlock()
	if old := d.replace(l); old != nil {
		return old.Close()
	}
	return l.Close() // it is shut, and stays so
}

func (d *door) shut() error {
	d.changing.Lock()
	defer d.changing.Unlock()
	if old := d.replace(nil); old != nil {
		return old.Close()
	}
	return nil
}

// replace puts l in the place of the listener, which it returns, unless the door is
// shut.
func (d *door) replace(l transport.Listener) (old transport.Listener) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.listener == nil {
		return nil
	}
	old, d.listener = d.listener, l
	if d.wake != nil {
		d.wake()
	}
	return old
}
