// SPDX-License-Identifier: GPL-3.0-or-later

package export

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// MaxZeroPiece is the most bytes that one zero request may cover. Whoever has
// more to zero or trim splits it, as payload is split at [wire.MaxPayload]: a
// request stays inside the gate until it is done, and a hand-over waits for it.
const MaxZeroPiece = 64 << 20

// ErrMovedAway is the error of requests that found the gate closed. A session
// that meets it closes its connection without replying, so that the client asks
// again at the disk's new home.
var ErrMovedAway = fmt.Errorf("the disk has moved away: %w", store.ErrShutdown)

// queue is the queue of one connection. It puts itself between the session and
// the lane, in both directions:
//
//	session -> Submit -> gate in -> zero map -> lane
//	session <- sink <- gate out <- zero map <- landed <- lane
//
// Its requests are inside the gate from Submit until just before the session's
// sink sees them. A request that needs a flush afterwards takes a turn through
// the flusher before it leaves the gate.
type queue struct {
	export *Export
	ctx    context.Context // ends the wait at the gate, nothing else
	sink   wire.Sink
	lane   wire.Queue

	inFlight sync.WaitGroup // requests submitted whose sink has not returned

	lost atomic.Bool // the client has to be told of a loss, see Restarted
	told atomic.Bool // the client has been told that every flush fails, see PendingLoss

	ungated bool // made by NewReader
}

// Borrow implements [wire.Queue].
func (q *queue) Borrow(ctx context.Context, n int) (*wire.Payload, error) {
	return q.lane.Borrow(ctx, n)
}

// TryBorrow implements [wire.Queue].
func (q *queue) TryBorrow(n int) *wire.Payload { return q.lane.TryBorrow(n) }

// Return implements [wire.Queue].
func (q *queue) Return(p *wire.Payload) { q.lane.Return(p) }

// Close implements [wire.Queue].
func (q *queue) Close() error {
	q.inFlight.Wait()
	q.export.mu.Lock()
	delete(q.export.queues, q)
	q.export.mu.Unlock()
	return q.lane.Close()
}

// Submit implements [wire.Queue], but for waiting while the gate is held: that
// is how a session stops reading. The batch enters as a whole, so what waits at
// the gate never keeps back what is inside, and that completes through the sink
// on other goroutines meanwhile.
func (q *queue) Submit(requests []*wire.Request) {
	if len(requests) == 0 {
		return
	}
	for _, r := range requests {
		q.assert(r)
		r.Err, r.Zero, r.Lent = nil, false, nil
	}
	q.inFlight.Add(len(requests))
	if !q.ungated {
		if err := q.export.gate.EnterN(q.ctx, len(requests)); err != nil {
			q.turnAway(requests, err)
			return
		}
	}
	b := newBatch()
	for _, r := range requests {
		q.begin(r, b)
	}
	if len(b.lane) > 0 {
		q.lane.Submit(b.lane)
	}
	q.complete(b.done)
	b.free()
}

// assert checks what the session has checked already.
func (q *queue) assert(r *wire.Request) {
	size := q.export.info.Size
	switch {
	case r.Op < wire.OpRead || r.Op > wire.OpFlush:
		panic(fmt.Sprintf("export: request with unknown operation %d", r.Op))
	case q.ungated && r.Op != wire.OpRead:
		panic(fmt.Sprintf("export: %v from a reader", r.Op))
	case r.Op == wire.OpFlush:
	case r.Offset < 0 || r.Length < 0 || r.Offset > size || r.Length > size-r.Offset:
		panic(fmt.Sprintf("export: %v of %d bytes at %d on a disk of %d", r.Op, r.Length, r.Offset, size))
	case r.Op == wire.OpZero:
		if r.Length > MaxZeroPiece {
			panic(fmt.Sprintf("export: zero of %d bytes was not split at %d", r.Length, MaxZeroPiece))
		}
	case r.Length > wire.MaxPayload:
		panic(fmt.Sprintf("export: %v of %d bytes was not split at %d", r.Op, r.Length, wire.MaxPayload))
	case r.Length > 0 && int64(len(r.Data.Bytes)) != r.Length:
		panic(fmt.Sprintf("export: %v of %d bytes has a payload of %d", r.Op, r.Length, len(r.Data.Bytes)))
	}
}

// turnAway completes requests that were not let in.
func (q *queue) turnAway(requests []*wire.Request, err error) {
	if errors.Is(err, ErrGateClosed) {
		err = ErrMovedAway
	}
	b := newBatch()
	for _, r := range requests {
		r.Err = err
		b.done = append(b.done, r)
	}
	q.deliver(b.done)
	b.free()
}

// begin adds what r asks of the store to b.lane or, where nothing is left to
// ask, r to b.done. It waits for nothing.
func (q *queue) begin(r *wire.Request, b *batch) {
	if r.Op == wire.OpFlush || r.Flags&store.FUA != 0 {
		if err := q.takeLost(); err != nil {
			b.refuse(r, err)
			return
		}
	}
	switch {
	case r.Op == wire.OpRead:
		q.beginRead(r, b)
	case r.Op == wire.OpFlush:
		q.beginFlush(r, b)
	case q.export.readOnly:
		b.refuse(r, store.ErrReadOnly)
	case r.Op == wire.OpWrite:
		q.beginWrite(r, b)
	default:
		q.beginZero(r, b)
	}
}

// refuse completes a request that changed nothing.
func (b *batch) refuse(r *wire.Request, err error) {
	r.Err = err
	b.done = append(b.done, r)
}

func (q *queue) beginRead(r *wire.Request, b *batch) {
	if q.export.zeros.knownZero(r.Offset, r.Length) {
		r.Zero = true
		b.done = append(b.done, r)
		return
	}
	b.lane = append(b.lane, &q.newOp(r).request)
}

// beginFlush completes r after the next flush, whether r is one or is a request
// with FUA that has nothing to write.
func (q *queue) beginFlush(r *wire.Request, b *batch) {
	o := q.newOp(r)
	if err := q.export.flusher.add(o); err != nil {
		q.tell()
		o.free()
		b.refuse(r, err)
	}
}

// landed is the lane's sink.
func (q *queue) landed(requests []*wire.Request) {
	b := newBatch()
	for _, r := range requests {
		if o := q.land(r.Owner.(*op)); o != nil {
			b.done = append(b.done, o.session)
			o.free()
		}
	}
	q.complete(b.done)
	b.free()
}

// land is the store's way back for one op. It returns the op that stands for
// the session's request if that is now complete.
func (q *queue) land(o *op) *op {
	o.whole.fail(q.after(o))
	if o.request.Op != wire.OpRead && q.tracked(o) {
		return nil
	}
	return q.settle(o)
}

// settle ends one op, about which nobody else wants to know anything.
func (q *queue) settle(o *op) *op {
	whole := o.whole
	if o != whole {
		o.free()
	}
	if whole.left.Add(-1) > 0 {
		return nil
	}
	err := whole.firstError()
	if err == nil && whole.thenFlush {
		if err = q.export.flusher.add(whole); err == nil {
			return nil
		}
		q.tell()
	}
	whole.session.Err, whole.session.Zero, whole.session.Lent = err, whole.request.Zero, whole.request.Lent
	return whole
}

// after brings what the export knows about the disk up to date with an op that
// has ended, well or not, before anybody hears of it and before it leaves the
// gate. It returns the error for the client.
func (q *queue) after(o *op) error {
	r, zeros := &o.request, q.export.zeros
	switch {
	case r.Op == wire.OpRead:
		return r.Err
	case countsAsWrite(r):
		zeros.endWrite(r.Offset, r.Length)
	case r.Err == nil:
		zeros.endZero(&o.token, r.Offset, r.Offset, r.Length)
	default:
		zeros.failZero(r.Offset, r.Length)
	}
	if q.export.flusher.endWrite(r.Flags, r.Err) {
		o.whole.queue.tell()
	}
	if o.whole.session.Flags&store.Discard != 0 && errors.Is(r.Err, store.ErrNotSupported) {
		return nil // it was only a hint
	}
	return r.Err
}

// finish completes ops that have been through the flusher. One that began before a
// loss, and was carried out after it, tells of it: it answers for what was
// acknowledged before.
func finish(ops []*op, err error) {
	for len(ops) > 0 {
		q, b := ops[0].queue, newBatch()
		for len(ops) > 0 && ops[0].queue == q {
			o := ops[0]
			o.session.Err = err
			switch {
			case err == nil:
				o.session.Err = q.takeLost()
			case errors.Is(err, wire.ErrPluginGone):
				_ = q.takeLost() // this is how it is told
			default:
				q.tell()
			}
			b.done = append(b.done, o.session)
			o.free()
			ops = ops[1:]
		}
		q.complete(b.done)
		b.free()
	}
}

// complete takes requests out of the gate, then hands them to the session: in
// this order, so that nobody inside ever waits for a session.
func (q *queue) complete(done []*wire.Request) {
	if len(done) == 0 {
		return
	}
	if !q.ungated {
		q.export.gate.LeaveN(len(done))
	}
	q.deliver(done)
}

func (q *queue) deliver(done []*wire.Request) {
	n := len(done)
	q.sink(done)
	q.inFlight.Add(-n)
}
