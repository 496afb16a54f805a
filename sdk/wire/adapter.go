// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"fmt"
	"sync"

	"github.com/flexnbd/flexnbd/sdk/store"
)

// DefaultBudget is the payload memory, in bytes, that one queue may have lent
// out at a time unless [WithBudget] says otherwise.
const DefaultBudget = 4 << 20

// Option changes how [NewQueue] makes a queue.
type Option func(*adapter)

// WithBudget sets the payload memory that the queue may have lent out at a
// time. Payloads count with the size of their class: the next power of two, at
// least 4 KiB. A budget below [MaxPayload] counts as MaxPayload, so that every
// request fits.
func WithBudget(bytes int) Option {
	return func(a *adapter) { a.budget = newBudget(max(bytes, MaxPayload)) }
}

// NewQueue makes a queue from any store: one in the same process, or the rpc
// lane's client.
//
// Every request in flight runs on a goroutine of its own, started by Submit; an
// idle queue has none. How many are in flight is for the caller to bound.
// Requests that complete while the sink runs are collected and delivered
// together by the goroutine that runs it, so the sink never runs twice at once.
//
// ctx is what the store's calls get. Ending it asks them to give up early; it
// need not ever end. Close does not end it, but waits for the calls. Payloads
// may be returned after Close. A panic in the store is not recovered.
func NewQueue(ctx context.Context, s store.Store, sink Sink, opts ...Option) Queue {
	a := &adapter{ctx: ctx, store: s, sink: sink, budget: newBudget(DefaultBudget)}
	for _, opt := range opts {
		opt(a)
	}
	return a
}

// adapter is the queue that NewQueue makes.
type adapter struct {
	ctx    context.Context
	store  store.Store
	sink   Sink
	budget *budget

	inFlight sync.WaitGroup // requests submitted whose sink has not returned

	mu         sync.Mutex
	done       []*Request // completed, not yet delivered
	spare      []*Request // the slice that done swaps with
	delivering bool       // one goroutine is in deliver
}

// Borrow implements [Queue].
func (a *adapter) Borrow(ctx context.Context, n int) (*Payload, error) {
	if err := a.budget.take(ctx, classSize(classOf(n))); err != nil {
		return nil, err
	}
	return payloads.get(n), nil
}

// TryBorrow implements [Queue].
func (a *adapter) TryBorrow(n int) *Payload {
	if !a.budget.tryTake(classSize(classOf(n))) {
		return nil
	}
	return payloads.get(n)
}

// Return implements [Queue]. Bytes may have been shortened since, not moved.
func (a *adapter) Return(p *Payload) {
	n := classSize(classOfPayload(p))
	payloads.put(p)
	a.budget.give(n)
}

// Submit implements [Queue]. It does not keep the slice.
//
// A goroutine for each request, and not a pool of workers: the runtime keeps
// the stacks of ended goroutines for new ones, which is all that a pool would
// do, and one slow request never stands in another's way.
func (a *adapter) Submit(batch []*Request) {
	a.inFlight.Add(len(batch))
	for _, r := range batch {
		if (r.Op == OpRead || r.Op == OpWrite) && int64(len(r.Data.Bytes)) != r.Length {
			panic(fmt.Sprintf("wire: %v of %d bytes was submitted with a payload of %d", r.Op, r.Length, len(r.Data.Bytes)))
		}
		r.Err, r.Zero, r.Lent = nil, false, nil
		go a.run(r)
	}
}

// run carries out one request and sees that it is delivered.
func (a *adapter) run(r *Request) {
	switch r.Op {
	case OpRead:
		r.Err = a.store.ReadAt(a.ctx, r.Data.Bytes, r.Offset)
	case OpWrite:
		r.Err = a.store.WriteAt(a.ctx, r.Data.Bytes, r.Offset, r.Flags)
	case OpZero:
		r.Err = a.store.PunchHole(a.ctx, r.Offset, r.Length, r.Flags)
	case OpFlush:
		r.Err = a.store.Flush(a.ctx)
	default:
		panic(fmt.Sprintf("wire: request with unknown operation %d", r.Op))
	}
	a.deliver(r)
}

// deliver hands r to the sink, or leaves it to the goroutine that is handing
// over others at this moment.
func (a *adapter) deliver(r *Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.done = append(a.done, r)
	if a.delivering {
		return
	}
	a.delivering = true
	for len(a.done) > 0 {
		batch := a.done
		a.done = a.spare[:0]
		a.mu.Unlock()
		a.sink(batch)
		a.mu.Lock()
		a.inFlight.Add(-len(batch))
		clear(batch)
		a.spare = batch
	}
	a.delivering = false
}

// Close implements [Queue].
func (a *adapter) Close() error {
	a.inFlight.Wait()
	return nil
}
