// SPDX-License-Identifier: GPL-3.0-or-later

package export

import (
	"sync"
	"sync/atomic"

	"github.com/flexnbd/flexnbd/sdk/wire"
)

// op is one request to the store: a session's request, or a run of a write that
// was split.
type op struct {
	// request is what the lane gets. Its Owner is the op.
	request wire.Request
	// payload is request.Data of a run.
	payload wire.Payload
	// whole is the op that stands for the session's request: the first of
	// those it was split into.
	whole *op

	// The rest is used in whole only.

	queue     *queue
	session   *wire.Request         // what the session submitted
	left      atomic.Int32          // ops that have not landed yet
	err       atomic.Pointer[error] // the first error
	thenFlush bool                  // flush when all have landed
	token     token                 // of a zeroing
}

var ops = sync.Pool{New: func() any { return new(op) }}

// newOp returns an op that stands for all of r and waits for one to land. It
// has no flags.
func (q *queue) newOp(r *wire.Request) *op {
	o := ops.Get().(*op)
	o.request = wire.Request{Op: r.Op, Offset: r.Offset, Length: r.Length, Data: r.Data, MayLend: r.MayLend, Owner: o}
	o.whole, o.queue, o.session = o, q, r
	o.left.Store(1)
	return o
}

// newRun returns an op for the bytes of r from start to end.
func newRun(r *wire.Request, start, end int64) *op {
	o := ops.Get().(*op)
	o.request = wire.Request{Op: r.Op, Offset: start, Length: end - start, Data: &o.payload, Owner: o}
	o.payload.Bytes = r.Data.Bytes[start-r.Offset : end-r.Offset]
	return o
}

// free gives an op back that nobody refers to any more.
func (o *op) free() {
	*o = op{token: token{o.token.seqs[:0]}}
	ops.Put(o)
}

// fail notes an error, unless there is one already.
func (o *op) fail(err error) {
	if err != nil {
		first := err // a copy, so that no error costs no allocation
		o.err.CompareAndSwap(nil, &first)
	}
}

// firstError returns what fail noted.
func (o *op) firstError() error {
	if err := o.err.Load(); err != nil {
		return *err
	}
	return nil
}

// batch is scratch space for one call of Submit or one of the lane's sink.
type batch struct {
	lane []*wire.Request // for the lane
	done []*wire.Request // the session's, completed
}

var batches = sync.Pool{New: func() any { return new(batch) }}

func newBatch() *batch { return batches.Get().(*batch) }

func (b *batch) free() {
	clear(b.lane)
	clear(b.done)
	b.lane, b.done = b.lane[:0], b.done[:0]
	batches.Put(b)
}
