// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// cache carries out a CACHE as the protocol suggests: it does what a READ does and
// throws the bytes away. That leaves them in whatever cache the backend reads
// through, be it the page cache or one for what lies behind a network; a backend
// without any gains nothing from it.
//
// A CACHE takes nothing from the client but its header, so one of them at a time
// is carried out on a connection, through one payload, and none for a client that
// has left or on a server that stops: it is only a hint.
func (t *transmission) cache(c *call) {
	t.caches <- struct{}{}
	defer func() { <-t.caches }()
	if err := t.readAway(c.request); err != nil {
		c.fail(err)
	}
	c.finish()
}

// readAway reads a range piece by piece.
func (t *transmission) readAway(r nbd.Request) error {
	off, left := int64(r.Offset), int64(r.Length)
	data, err := t.queue.Borrow(t.ctx, int(min(left, wire.MaxPayload)))
	if err != nil {
		return err
	}
	defer t.queue.Return(data)
	for left > 0 && !t.leaving() {
		n := min(left, wire.MaxPayload)
		data.Bytes = data.Bytes[:n]
		w := newWaiter(wire.Request{Op: wire.OpRead, Offset: off, Length: n, Data: data})
		t.start([]*wire.Request{&w.request})
		if err := w.wait(); err != nil {
			return err
		}
		off, left = off+n, left-n
	}
	if fatal := t.fatal.Load(); left > 0 && fatal != nil {
		return *fatal // perhaps that the disk has moved: then there is no answer
	}
	return nil
}

// leaving says that the connection is about to end.
func (t *transmission) leaving() bool {
	return t.received.Load() || t.stopping.Load() || t.fatal.Load() != nil
}
