// SPDX-License-Identifier: GPL-3.0-or-later

package export

import (
	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// beginZero begins a zeroing (NBD_CMD_WRITE_ZEROES) or a trim (NBD_CMD_TRIM,
// with Discard). For a store that has nothing cheaper than zeroing, a trim is a
// zeroing, and the range is known to be zero afterwards.
//
// A range that is known to be zero is done already, unless it has to be
// allocated. That holds for trims too: what a preallocated image has never
// written stays preallocated.
func (q *queue) beginZero(r *wire.Request, b *batch) {
	info, flags := &q.export.info, r.Flags
	if !info.CanDiscard {
		flags &^= store.Discard
	}
	keep := flags&store.KeepAllocated != 0
	if !keep && q.export.zeros.knownZero(r.Offset, r.Length) || r.Length == 0 {
		if flags&store.FUA != 0 {
			q.beginFlush(r, b)
		} else {
			b.done = append(b.done, r)
		}
		return
	}
	byWriting := keep && !info.CanKeepAllocated && info.CanPunch
	if flags&store.Fast != 0 && (!info.CanFast || byWriting) {
		b.refuse(r, store.ErrNotSupported)
		return
	}
	fua, thenFlush := q.durability(r)
	if fua != 0 {
		if err := q.export.flusher.failure(); err != nil {
			q.tell()
			b.refuse(r, err)
			return
		}
	}
	o := q.newOp(r)
	o.thenFlush = thenFlush
	o.request.Flags = flags&^store.FUA | fua
	if keep && !info.CanKeepAllocated && !info.CanPunch {
		// A store that frees nothing has nothing to keep.
		o.request.Flags &^= store.KeepAllocated
	}
	q.export.flusher.beginWrite(o.request.Flags)
	if countsAsWrite(&o.request) {
		q.export.zeros.beginWrite(r.Offset, r.Length)
	} else {
		q.export.zeros.beginZero(&o.token, r.Offset, r.Length)
	}
	if byWriting {
		go q.writeZeroes(o)
		return
	}
	b.lane = append(b.lane, &o.request)
}

// writeZeroes carries out a zeroing that has to leave the range allocated, for
// a store that frees what it zeroes: NBD_CMD_FLAG_NO_HOLE says that the area
// MUST be fully provisioned, and whoever offers NBD_CMD_WRITE_ZEROES MUST
// support the flag. The queue's Close waits for it.
//
// It writes from memory that nobody borrowed, and so passes the lane by: to
// borrow inside the gate would be to wait for a client to take its replies.
func (q *queue) writeZeroes(o *op) {
	r := &o.request
	for done := int64(0); done < r.Length && r.Err == nil; {
		n := min(r.Length-done, wire.MaxPayload)
		r.Err = q.export.store.WriteAt(q.export.calls, zeroes[:n], r.Offset+done, r.Flags&store.FUA)
		done += n
	}
	one := [1]*wire.Request{r}
	q.landed(one[:])
}
