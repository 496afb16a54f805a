// SPDX-License-Identifier: Apache-2.0

package ringlane

import (
	"context"
	"errors"
	"math"
	"sync"
	"sync/atomic"

	"github.com/flexnbd/flexnbd/sdk/rangelock"
	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// queue is one connection's queue.
type queue struct {
	lane     *Lane
	sink     wire.Sink
	fallback wire.Queue // completes into the same sink
	arena    *arena

	ctx      context.Context // ends with the queue
	cancel   context.CancelFunc
	line     atomic.Pointer[line] // nil: none at present
	lines    map[*line]struct{}   // all that have not ended; the lane's lock
	inFlight sync.WaitGroup       // requests on rings, and those that became calls after one
	tasks    sync.WaitGroup       // whatever opens and reads rings
}

// NewQueue returns a queue for one connection. fallback carries out what the lane does
// not, with sink as its own sink; the queue owns it. Without memory for a queue of its
// own, fallback is what it returns, and why.
func (l *Lane) NewQueue(fallback wire.Queue, sink wire.Sink) (wire.Queue, error) {
	a, err := newArena()
	if err != nil {
		return fallback, err
	}
	q := &queue{lane: l, sink: sink, fallback: fallback, arena: a, lines: map[*line]struct{}{}}
	q.ctx, q.cancel = context.WithCancel(context.Background())
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queues[q] = struct{}{}
	if l.process != nil {
		q.attach(l.process)
	}
	return q, nil
}

// attach opens a ring to a process, while requests take the fallback. The lane's lock is
// held.
func (q *queue) attach(p Process) {
	q.tasks.Go(func() {
		socket, err := p.OpenRing(q.ctx, q.arena.memory.File, len(q.arena.memory.Bytes))
		if err != nil {
			if q.ctx.Err() == nil && !errors.Is(err, wire.ErrPluginGone) {
				p.Unopened(err)
			}
			return
		}
		r := newLine(q, p, socket)
		if !q.use(r) {
			r.hangUp()
		}
		r.receive()
		q.forget(r)
	})
}

// use makes r the queue's ring, unless the lane uses another process meanwhile or the
// queue is being closed.
func (q *queue) use(r *line) bool {
	q.lane.mu.Lock()
	defer q.lane.mu.Unlock()
	if q.lane.process != r.process || q.ctx.Err() != nil {
		return false
	}
	q.line.Store(r)
	q.lines[r] = struct{}{}
	return true
}

// forget is told of the end of a ring.
func (q *queue) forget(r *line) {
	q.lane.mu.Lock()
	defer q.lane.mu.Unlock()
	delete(q.lines, r)
}

// leave sends nothing over the ring any more.
func (q *queue) leave() { q.line.Store(nil) }

// Borrow implements [wire.Queue].
func (q *queue) Borrow(ctx context.Context, n int) (*wire.Payload, error) {
	return q.arena.borrow(ctx, n)
}

// TryBorrow implements [wire.Queue].
func (q *queue) TryBorrow(n int) *wire.Payload { return q.arena.tryBorrow(n) }

// Return implements [wire.Queue]. Bytes may have been shortened since, not moved.
func (q *queue) Return(p *wire.Payload) { q.arena.giveBack(p) }

// Close implements [wire.Queue]. The memory goes with its last payload.
func (q *queue) Close() error {
	q.inFlight.Wait()
	err := q.fallback.Close()
	q.cancel()
	q.lane.mu.Lock()
	delete(q.lane.queues, q)
	r := q.line.Swap(nil)
	q.lane.mu.Unlock()
	if r != nil {
		r.hangUp()
	}
	q.tasks.Wait()
	q.arena.close()
	return err
}

// Submit implements [wire.Queue].
func (q *queue) Submit(requests []*wire.Request) {
	r := q.line.Load()
	if r == nil {
		q.fallback.Submit(requests)
		return
	}
	b := newBatch()
	for _, request := range requests {
		request.Err, request.Zero, request.Lent = nil, false, nil
		if t, ok := q.ticket(request); ok {
			b.tickets = append(b.tickets, t)
		} else {
			b.requests = append(b.requests, request)
		}
	}
	q.inFlight.Add(len(b.tickets))
	sent, alone := r.send(b.tickets)
	if !sent {
		for _, t := range b.tickets {
			q.lane.ranges.Unlock(t.claim)
			b.requests = append(b.requests, t.request)
		}
		q.inFlight.Add(-len(b.tickets))
	}
	if len(b.requests) > 0 {
		q.fallback.Submit(b.requests)
	}
	quick := sent && alone && len(requests) == 1 && requests[0].Op != wire.OpZero && requests[0].Length <= quickPayload
	b.free()
	if quick {
		r.linger()
	}
}

// ticket is a request that goes over a ring.
type ticket struct {
	request *wire.Request
	claim   *rangelock.Claim
	payload uint32 // where it lies in the memory
}

// ticket makes one if the request is for the ring, and its range is not in use.
func (q *queue) ticket(r *wire.Request) (t ticket, ok bool) {
	t.request = r
	if r.Op == wire.OpFlush || r.Flags&store.FUA != 0 || r.Length > math.MaxUint32 {
		return t, false
	}
	if r.Op != wire.OpZero {
		off := q.arena.offset(r.Data.Bytes)
		if off < 0 || int64(len(r.Data.Bytes)) != r.Length { // the fallback says what it thinks of the latter
			return t, false
		}
		t.payload = uint32(off)
	}
	t.claim = q.lane.ranges.TryLock(r.Offset, r.Offset+r.Length, r.Op != wire.OpRead)
	return t, t.claim != nil
}

// completed takes requests back that a ring has carried out. It keeps neither slice.
func (q *queue) completed(tickets []ticket, failed []ticket) {
	if len(tickets) > 0 {
		b := newBatch()
		for _, t := range tickets {
			q.lane.ranges.Unlock(t.claim)
			b.requests = append(b.requests, t.request)
		}
		q.sink(b.requests)
		b.free()
		q.inFlight.Add(-len(tickets))
	}
	for _, t := range failed {
		q.later(t, q.lane.disk.Call)
	}
}

// lost carries on with requests whose ring has ended: those that the process has had, and
// those that it has not.
func (q *queue) lost(had, unsent []ticket, p Process) {
	for _, t := range had {
		q.later(t, func(r *wire.Request) error { return q.lane.disk.Repeat(p, r) })
	}
	for _, t := range unsent {
		q.later(t, q.lane.disk.Call)
	}
}

// later carries a request out on a goroutine of its own. inFlight waits for it.
func (q *queue) later(t ticket, do func(*wire.Request) error) {
	go func() {
		defer q.inFlight.Done()
		t.request.Err = do(t.request)
		q.lane.ranges.Unlock(t.claim)
		q.sink([]*wire.Request{t.request})
	}()
}

// batch is scratch space for one call.
type batch struct {
	tickets  []ticket
	requests []*wire.Request
}

var batches = sync.Pool{New: func() any { return new(batch) }}

func newBatch() *batch { return batches.Get().(*batch) }

func (b *batch) free() {
	clear(b.tickets)
	clear(b.requests)
	b.tickets, b.requests = b.tickets[:0], b.requests[:0]
	batches.Put(b)
}
