// SPDX-License-Identifier: Apache-2.0

package wiretest

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// OverQueue returns s with reads, writes and punches going through a queue, as a
// session's do, so that a suite for stores checks a lane. newQueue makes that
// queue, over s. Every other read may be answered with a lent descriptor.
//
// Closing it closes the queue, then s.
func OverQueue(s store.Store, newQueue func(wire.Sink) wire.Queue) store.Store {
	return &overQueue{Store: s, queue: newQueue(completed)}
}

type overQueue struct {
	store.Store
	queue wire.Queue
	reads atomic.Uint64
}

// completed is the queue's sink.
func completed(done []*wire.Request) {
	for _, r := range done {
		r.Owner.(chan struct{}) <- struct{}{}
	}
}

// do carries out one request and waits for it.
func (o *overQueue) do(r *wire.Request) error {
	done := make(chan struct{}, 1)
	r.Owner = done
	o.queue.Submit([]*wire.Request{r})
	<-done
	return r.Err
}

// pieces calls do for each piece of at most MaxPayload bytes, with memory for it.
func (o *overQueue) pieces(ctx context.Context, p []byte, off int64, do func(piece []byte, off int64, data *wire.Payload) error) error {
	for len(p) > 0 {
		n := min(len(p), wire.MaxPayload)
		data, err := o.queue.Borrow(ctx, n)
		if err != nil {
			return err
		}
		err = do(p[:n], off, data)
		o.queue.Return(data)
		if err != nil {
			return err
		}
		p, off = p[n:], off+int64(n)
	}
	return ctx.Err()
}

// ReadAt implements [store.Store].
func (o *overQueue) ReadAt(ctx context.Context, p []byte, off int64) error {
	return o.pieces(ctx, p, off, func(piece []byte, off int64, data *wire.Payload) error {
		r := &wire.Request{Op: wire.OpRead, Offset: off, Length: int64(len(piece)), Data: data, MayLend: o.reads.Add(1)%2 == 0}
		if err := o.do(r); err != nil {
			return err
		}
		if r.Lent != nil {
			if !r.MayLend {
				return errors.New("a descriptor was lent to a read that did not ask for one")
			}
			defer r.Lent.Leave()
			return r.Lent.ReadAt(piece, off)
		}
		copy(piece, data.Bytes)
		return nil
	})
}

// WriteAt implements [store.Store].
func (o *overQueue) WriteAt(ctx context.Context, p []byte, off int64, flags store.Flags) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return o.pieces(context.WithoutCancel(ctx), p, off, func(piece []byte, off int64, data *wire.Payload) error {
		copy(data.Bytes, piece)
		return o.do(&wire.Request{Op: wire.OpWrite, Flags: flags, Offset: off, Length: int64(len(piece)), Data: data})
	})
}

// PunchHole implements [store.Store].
func (o *overQueue) PunchHole(ctx context.Context, off, length int64, flags store.Flags) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return o.do(&wire.Request{Op: wire.OpZero, Flags: flags, Offset: off, Length: length})
}

// Close closes the queue, then the store.
func (o *overQueue) Close() error { return errors.Join(o.queue.Close(), o.Store.Close()) }
