// SPDX-License-Identifier: Apache-2.0

package filelane

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flexnbd/flexnbd/sdk/wire"
)

// queue is one connection's queue.
type queue struct {
	lane     *Lane
	sink     wire.Sink
	fallback wire.Queue // completes into the same sink

	delayed sync.WaitGroup // requests left to goroutines
	slow    atomic.Int64   // how many there are
}

// NewQueue returns a queue for one connection. fallback carries out what the
// lane does not, with sink as its own sink; the queue owns it.
func (l *Lane) NewQueue(fallback wire.Queue, sink wire.Sink) wire.Queue {
	return &queue{lane: l, sink: sink, fallback: fallback}
}

// Borrow implements [wire.Queue].
func (q *queue) Borrow(ctx context.Context, n int) (*wire.Payload, error) {
	return q.fallback.Borrow(ctx, n)
}

// TryBorrow implements [wire.Queue].
func (q *queue) TryBorrow(n int) *wire.Payload { return q.fallback.TryBorrow(n) }

// Return implements [wire.Queue].
func (q *queue) Return(p *wire.Payload) { q.fallback.Return(p) }

// Close implements [wire.Queue].
func (q *queue) Close() error {
	q.delayed.Wait()
	return q.fallback.Close()
}

// together is how many bytes are read or written before those that wait for
// them are told: more would only make the first wait for the last.
const together = 256 << 10

// Submit implements [wire.Queue].
func (q *queue) Submit(requests []*wire.Request) {
	f := q.lane.enter()
	if f == nil {
		q.fallback.Submit(requests)
		return
	}
	defer f.lent.Leave()
	b := newBatch()
	for _, r := range requests {
		r.Err, r.Zero, r.Lent = nil, false, nil
		if f.takes(r) {
			b.ours = append(b.ours, r)
		} else {
			b.others = append(b.others, r)
		}
	}
	if len(b.others) > 0 {
		q.fallback.Submit(b.others) // first, since it takes longer
	}
	begin := time.Now()
	var bytes int64
	alone, stalled := len(requests) == 1 && q.slow.Load() == 0, q.lane.stall.recent(begin)
	for _, r := range b.ours {
		if !q.now(f, r, alone, stalled) {
			continue
		}
		b.done = append(b.done, r)
		if bytes += r.Length; bytes >= together {
			q.sink(b.done)
			clear(b.done)
			b.done, bytes = b.done[:0], 0
		}
	}
	if len(b.done) > 0 {
		q.sink(b.done)
	}
	q.lane.stall.note(begin)
	b.free()
}

// takes says whether the descriptor is the place for a request.
func (f *file) takes(r *wire.Request) bool {
	return r.Op == wire.OpRead || r.Op == wire.OpWrite && r.Flags == 0
}

// now carries a request out at once if that waits for nothing, and returns true.
// Otherwise it sees to it that the request is carried out. alone says that the
// connection has no other request that it knows of, stalled that writes have waited.
//
// A long read that is alone is best sent without any copy, and so is a huge one. Of
// several long reads each gets a goroutine, cached or not: their copies are made on
// several CPUs, while one sends.
func (q *queue) now(f *file, r *wire.Request, alone, stalled bool) bool {
	done := 0
	switch {
	case r.Op == wire.OpWrite:
		if f.writesAtOnce(r) && !stalled {
			done = q.tryWrite(f, r)
		}
	case r.MayLend && (alone || r.Length >= hugeRead) && f.lends(r):
		f.lent.Share()
		r.Lent = f.lent
		return true
	case r.Length >= longRead && !alone:
	default:
		done = f.readCached(r.Data.Bytes, r.Offset)
	}
	if done == len(r.Data.Bytes) {
		return true
	}
	q.later(f, r, done)
	return false
}

// tryWrite writes to the page cache what it can without waiting for anybody, and
// returns how much that was.
func (q *queue) tryWrite(f *file, r *wire.Request) int {
	claim := q.lane.ranges.TryLock(r.Offset, r.Offset+r.Length, true)
	if claim == nil {
		return 0
	}
	defer q.lane.ranges.Unlock(claim)
	n, err := f.pwrite(f.fd, r.Data.Bytes, r.Offset)
	if err != nil {
		return 0
	}
	return n
}

// batch is scratch space for one call of Submit.
type batch struct{ ours, others, done []*wire.Request }

var batches = sync.Pool{New: func() any { return new(batch) }}

func newBatch() *batch { return batches.Get().(*batch) }

func (b *batch) free() {
	for _, list := range []*[]*wire.Request{&b.ours, &b.others, &b.done} {
		clear(*list)
		*list = (*list)[:0]
	}
	batches.Put(b)
}
