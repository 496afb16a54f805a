// SPDX-License-Identifier: GPL-3.0-or-later

package export

import (
	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// countsAsWrite says whether a request may leave anything behind, as far as the
// zero map is concerned. What is discarded may read as anything. What has to
// stay allocated is zero, but a set bit would keep a later trim from the store,
// and the space would never come back.
func countsAsWrite(r *wire.Request) bool {
	return r.Op == wire.OpWrite || r.Flags&(store.Discard|store.KeepAllocated) != 0
}

// durability decides how r's FUA is honoured: by the store, with the flags that
// go with the request, or by a flush afterwards where the store cannot, or would
// flush everything itself, which the flusher does once for many.
func (q *queue) durability(r *wire.Request) (flags store.Flags, thenFlush bool) {
	switch {
	case r.Flags&store.FUA == 0:
		return 0, false
	case q.export.info.FUA == store.Native:
		return store.FUA, false
	}
	return 0, true
}

// beginWrite begins a write, without the parts that are zeroes and known to be
// zeroes already. On a disk without known zeroes nothing is looked at.
func (q *queue) beginWrite(r *wire.Request, b *batch) {
	flags, thenFlush := q.durability(r)
	if flags != 0 {
		if err := q.export.flusher.failure(); err != nil {
			q.tell()
			b.refuse(r, err)
			return
		}
	}
	if q.export.zeros.maybeZero(r.Offset, r.Length) || r.Length == 0 {
		q.beginSparseWrite(r, b)
		return
	}
	o := q.newOp(r)
	o.request.Flags, o.thenFlush = flags, thenFlush
	q.issueWrite(o, b)
}

// issueWrite tells the zero map and the flusher, then adds o, flags and all, to
// what goes to the lane.
func (q *queue) issueWrite(o *op, b *batch) {
	q.export.flusher.beginWrite(o.request.Flags)
	q.export.zeros.beginWrite(o.request.Offset, o.request.Length)
	b.lane = append(b.lane, &o.request)
}

// beginSparseWrite begins a write as the runs that remain without its known
// zeroes. What is left out takes effect at the moment when its bit is found
// set: the bytes are zeroes then, and no other write is under way.
//
// With FUA the whole range has to be durable, and the punch that once made the
// zeroes need not be. So a write that was cut is followed by a flush, and needs
// no FUA of its own.
func (q *queue) beginSparseWrite(r *wire.Request, b *batch) {
	var whole *op
	end := r.Offset + r.Length
	for start := r.Offset; ; {
		from, to := q.nextRun(r, start)
		if from == end {
			break
		}
		if whole == nil {
			whole = q.newOp(r)
			whole.request.Offset, whole.request.Length = from, to-from
			whole.payload.Bytes = r.Data.Bytes[from-r.Offset : to-r.Offset]
			whole.request.Data = &whole.payload
			if to-from == r.Length {
				whole.request.Flags, whole.thenFlush = q.durability(r)
			}
			q.issueWrite(whole, b)
		} else {
			run := newRun(r, from, to)
			run.whole = whole
			whole.left.Add(1)
			q.issueWrite(run, b)
		}
		start = to
	}
	switch fua := r.Flags&store.FUA != 0; {
	case whole == nil && fua:
		q.beginFlush(r, b)
	case whole == nil:
		b.done = append(b.done, r)
	case whole.request.Length < r.Length:
		whole.thenFlush = fua
	}
}

// nextRun returns the first run of r's bytes at or after start that has to be
// written, both as offsets on the disk. It is empty and at r's end if there is
// none.
func (q *queue) nextRun(r *wire.Request, start int64) (from, to int64) {
	end := r.Offset + r.Length
	for from = start; from < end && q.isKnown(r, from); {
		from = blockEnd(from, end)
	}
	for to = from; to < end && !q.isKnown(r, to); {
		to = blockEnd(to, end)
	}
	return from, to
}

// isKnown says whether r's bytes from pos to the end of the block are zeroes
// and known to be zeroes on the disk. pos is r's start or a block's.
func (q *queue) isKnown(r *wire.Request, pos int64) bool {
	if !q.export.zeros.bits.isSet(pos >> blockBits) {
		return false
	}
	end := blockEnd(pos, r.Offset+r.Length)
	return allZero(r.Data.Bytes[pos-r.Offset : end-r.Offset])
}

// blockEnd returns the end of pos's block, but not more than limit.
func blockEnd(pos, limit int64) int64 { return min(pos&^(blockSize-1)+blockSize, limit) }
