// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"github.com/flexnbd/flexnbd/core/export"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// zero starts a TRIM or a WRITE_ZEROES, which may be up to 4 GiB long. A long one
// passes the gate piece by piece, one after the other, on a goroutine of its own.
//
// With FAST_ZERO each piece has to be fast, or all of it fails with ENOTSUP, even
// if pieces in front are zero by then: to fail quickly is a MUST, to leave the
// range alone a SHOULD.
func (t *transmission) zero(c *call) {
	if c.request.Length <= export.MaxZeroPiece {
		if err := t.begin(int64(c.request.Offset), int64(c.request.Length)); err != nil {
			c.fail(err)
			c.finish()
			return
		}
		t.batch = append(t.batch, &c.add(wire.OpZero, int64(c.request.Offset), int64(c.request.Length), nil).request)
		c.finish()
		return
	}
	t.task(func() {
		off, left := int64(c.request.Offset), int64(c.request.Length)
		for left > 0 {
			n := min(left, export.MaxZeroPiece)
			if err := t.begin(off, n); err != nil {
				c.fail(err)
				break
			}
			w := newWaiter(wire.Request{Op: wire.OpZero, Flags: c.flags(), Offset: off, Length: n})
			t.start([]*wire.Request{&w.request})
			err := w.wait()
			if s := t.agreed.sender; s != nil {
				told(s, &w.request)
			}
			if err != nil {
				c.fail(err)
				break
			}
			off, left = off+n, left-n
		}
		c.finish()
	})
}
