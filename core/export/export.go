// SPDX-License-Identifier: GPL-3.0-or-later

package export

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"

	"github.com/flexnbd/flexnbd/sdk/align"
	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// Options say how a disk is served.
type Options struct {
	// ReadOnly refuses writes also where the store would take them.
	ReadOnly bool
	// Logger is told what no client can be told. Nil for silence.
	Logger hclog.Logger
}

// Export is one served disk. All methods but Close may be called from many
// goroutines.
type Export struct {
	store    store.Store
	info     store.Info
	readOnly bool
	log      hclog.Logger

	// calls is the context of every call to the store on a client's behalf.
	// It never ends: a write that was let in is finished, and the error of a
	// flush is not lost because the client that asked for it has gone.
	calls context.Context

	gate    Gate
	zeros   *zeroMap
	flusher *flusher

	tracker atomic.Pointer[Tracker] // nil: nobody follows the changes

	builder    builder
	background sync.WaitGroup // the builds

	mu     sync.Mutex
	queues map[*queue]struct{} // those that are open
	lost   atomic.Bool         // a loss that no connection has been told of yet; set under mu
	told   atomic.Bool         // somebody has been told that every flush fails
}

// Open serves a store, which belongs to the Export from now on: Close closes
// it, and so does Open when it fails. It refuses a store that declares what
// cannot be (see [store.Info.Check]) and puts package align in front of one that
// takes only whole blocks.
//
// The zero map is built in the background, until Close at the latest. ctx bounds
// Open alone.
func Open(ctx context.Context, s store.Store, opts Options) (*Export, error) {
	if err := s.Info().Check(); err != nil {
		err = fmt.Errorf("the backend describes a disk that cannot be, which is a fault in the backend: %w", err)
		return nil, errors.Join(err, s.Close())
	}
	s = align.New(s)
	e := &Export{store: s, info: s.Info(), log: opts.Logger, calls: context.WithoutCancel(ctx), queues: map[*queue]struct{}{}}
	if e.log == nil {
		e.log = hclog.NewNullLogger()
	}
	e.readOnly = opts.ReadOnly || e.info.ReadOnly
	e.zeros = newZeroMap(e.info.Size)
	e.flusher = &flusher{store: s, ctx: e.calls, log: e.log, volatile: e.info.Survives == store.SurvivesFlushed}

	e.builder.ctx, e.builder.stop = context.WithCancel(e.calls)
	e.startBuild()
	return e, nil
}

// Size returns the disk's size in bytes.
func (e *Export) Size() int64 { return e.info.Size }

// ReadOnly says whether writes are refused.
func (e *Export) ReadOnly() bool { return e.readOnly }

// Info returns what the store says about itself, as clients may rely on it.
func (e *Export) Info() store.Info { return e.info }

// Gate returns the gate that the requests of every queue pass.
func (e *Export) Gate() *Gate { return &e.gate }

// NewQueue returns a queue for one client connection. Requests complete with
// [ErrMovedAway] once the gate is closed. While the gate is held, Submit waits,
// until ctx ends at the latest; its requests then complete with ctx's error.
// ctx has no influence on requests that are inside.
//
// Beyond what [wire.Queue] demands, requests have to lie inside the disk, and a
// zero request may cover at most [MaxZeroPiece] bytes.
func (e *Export) NewQueue(ctx context.Context, sink wire.Sink) wire.Queue {
	q := &queue{export: e, ctx: ctx, sink: sink}
	q.lane = e.newLane(q.landed)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.queues[q] = struct{}{}
	q.lost.Store(e.lost.Load())
	return q
}

// NewReader returns a queue that takes reads only, and does not pass the gate: a
// migration reads while it holds it.
func (e *Export) NewReader(sink wire.Sink) wire.Queue {
	q := &queue{export: e, ctx: e.calls, sink: sink, ungated: true}
	q.lane = e.newLane(q.landed)
	return q
}

// newLane returns the fastest queue that the store has.
func (e *Export) newLane(sink wire.Sink) wire.Queue {
	if s, ok := e.store.(wire.Queuer); ok {
		return s.NewQueue(e.calls, sink)
	}
	return wire.NewQueue(e.calls, e.store, sink)
}

// Flush makes durable whatever was acknowledged before, on all connections. It
// does not pass the gate. When ctx ends Flush returns its error, while the
// store's flush goes on: its outcome is noted for whoever asks next.
//
// Once a flush has failed, every Flush and every request with FUA fails. A loss
// that no connection was told of (see Restarted) is told here, once.
func (e *Export) Flush(ctx context.Context) error {
	if err := e.flusher.flush(ctx); err != nil {
		if e.flusher.failure() != nil {
			e.told.Store(true)
		}
		return err
	}
	if e.lost.CompareAndSwap(true, false) {
		return errLost
	}
	return nil
}

// Close stops what runs in the background and closes the store. Every queue has
// to be closed before. If ctx ends first, a call to the store is still under
// way; the store is then left open, and Close may be called again.
func (e *Export) Close(ctx context.Context) error {
	e.builder.close()
	ended := make(chan struct{})
	go func() {
		e.background.Wait()
		e.flusher.rounds.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return e.store.Close()
	case <-ctx.Done():
		return fmt.Errorf("the disk was not closed, the backend still has a call to finish: %w", ctx.Err())
	}
}
