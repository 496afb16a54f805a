// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// write takes the payload of a WRITE off the socket, piece by piece, into
// memory borrowed from the queue. No piece enters the export's gate before all
// of it is here, so a client that stalls in the middle holds up nobody.
//
// Pieces in front of an error, or of the client's end, have been written: the
// protocol leaves the range of a failed write undefined.
func (t *transmission) write(c *call) error {
	off, left := int64(c.request.Offset), int64(c.request.Length)
	for left > 0 && c.err() == nil {
		n := min(left, wire.MaxPayload)
		data, err := t.borrow(int(n))
		if err != nil {
			return err
		}
		if err := t.fill(data.Bytes); err != nil {
			t.queue.Return(data)
			return err
		}
		if err := t.begin(off, n); err != nil {
			t.queue.Return(data)
			c.fail(err)
			left -= n // its payload has been read
			break
		}
		t.batch = append(t.batch, &c.add(wire.OpWrite, off, n, data).request)
		off, left = off+n, left-n
	}
	if err := t.discard(left); err != nil { // behind a piece that failed
		return err
	}
	c.finish()
	return nil
}

// fill reads payload. What was read before is submitted first if that means
// waiting.
func (t *transmission) fill(b []byte) error {
	if t.in.buffered() < len(b) {
		t.submit()
	}
	return midway(t.in.read(b))
}

// discard reads payload that nobody wants.
func (t *transmission) discard(n int64) error {
	if int64(t.in.buffered()) < n {
		t.submit()
	}
	return midway(t.in.discard(n))
}
