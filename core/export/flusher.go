// SPDX-License-Identifier: GPL-3.0-or-later

package export

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/hashicorp/go-hclog"

	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// flusher carries out every flush of a disk, one at a time. Whoever asks while
// one is under way waits for the next, which then serves all of them: the one
// under way may have begun before their writes had ended.
//
// One at a time, because Linux reports a lost write to one caller only. Of two
// flushes at once, one would fail and the other succeed, and its client would
// never learn of the loss. For the same reason a failure is kept: whoever asks
// afterwards gets it too. Only a flush that failed because its process is gone
// says nothing about the next one, which a new process carries out.
type flusher struct {
	store store.Store
	ctx   context.Context // never ends
	log   hclog.Logger

	rounds sync.WaitGroup // run

	// volatile: what is not flushed does not survive the store's process. Only
	// then is counted what a crash may take: writing, the changes without FUA
	// that are under way on any connection; wrote, those that have succeeded;
	// and flushed, those of the latter that a flush has covered.
	volatile       bool
	writing        atomic.Int64
	wrote, flushed atomic.Uint64

	mu      sync.Mutex
	running bool         // run is under way
	ops     []*op        // wait for the next round
	callers []chan error // wait for the next round; each has room for the answer
	failed  error        // the first failure, for good
}

// failure returns the error that every flush and FUA has to fail with, if any.
func (f *flusher) failure() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failed
}

// latch keeps an error for every flush to come, and returns the one to report.
func (f *flusher) latch(err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failed == nil {
		f.failed = fmt.Errorf("writes that were acknowledged may be lost, since the backend failed to make them durable; every flush fails from now on, until the storage is repaired and the server restarted: %w", err)
		f.log.Error("the backend failed to make writes durable: every flush fails from now on, repair the storage and restart the server", "error", err)
	}
	return f.failed
}

// wroteThrough looks at the error of a write or punch that carried FUA to the
// store. If its flushing half failed, that was the one report of other writes
// lost with it. Nothing but EIO tells the halves apart; an error with a name of
// its own, like ENOSPC, is taken for the write's. Of a process that is gone, its
// host finds out what was lost. It returns true if every flush fails from now on,
// which the request tells in its own words.
func (f *flusher) wroteThrough(err error) bool {
	if store.Errno(err) != syscall.EIO || errors.Is(err, wire.ErrPluginGone) {
		return false
	}
	_ = f.latch(err)
	return true
}

// beginWrite counts a write or punch before it goes to the store, endWrite when
// it has come back with err. The latter returns true if the request's error tells of
// other writes lost with it.
func (f *flusher) beginWrite(flags store.Flags) {
	if f.volatile && flags&store.FUA == 0 {
		f.writing.Add(1)
	}
}

func (f *flusher) endWrite(flags store.Flags, err error) bool {
	switch {
	case flags&store.FUA != 0:
		return err != nil && f.wroteThrough(err)
	case f.volatile:
		if err == nil {
			f.wrote.Add(1)
		}
		f.writing.Add(-1) // last, so that at any time one of the two tells
	}
	return false
}

// mayHaveLost says whether a crash at this moment may have taken anything that
// was acknowledged, or is about to be: of a change under way, nobody knows whether
// the dead process or its successor carried it out. It then counts as told what
// is lost.
func (f *flusher) mayHaveLost() bool {
	if !f.volatile || f.writing.Load() == 0 && f.wrote.Load() == f.flushed.Load() {
		return false
	}
	f.flushed.Store(f.wrote.Load())
	return true
}

// add makes o complete after the next round. The error, if any, is the one that
// it has to complete with instead.
func (f *flusher) add(o *op) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failed != nil {
		return f.failed
	}
	f.ops = append(f.ops, o)
	f.start()
	return nil
}

// flush waits for the next round.
func (f *flusher) flush(ctx context.Context) error {
	answer := make(chan error, 1)
	f.mu.Lock()
	if f.failed != nil {
		defer f.mu.Unlock()
		return f.failed
	}
	f.callers = append(f.callers, answer)
	f.start()
	f.mu.Unlock()
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// start sees that run is under way. The caller holds mu.
func (f *flusher) start() {
	if !f.running {
		f.running = true
		f.rounds.Go(f.run)
	}
}

// flushStore is the store's part of one round.
func (f *flusher) flushStore() error {
	covers := f.wrote.Load()
	err := f.store.Flush(f.ctx)
	switch {
	case err == nil:
		f.flushed.Store(covers)
	case !errors.Is(err, wire.ErrPluginGone):
		err = f.latch(err)
	}
	return err
}

// run does rounds until nobody waits.
func (f *flusher) run() {
	for {
		f.mu.Lock()
		ops, callers, err := f.ops, f.callers, f.failed
		f.ops, f.callers = nil, nil
		f.running = len(ops)+len(callers) > 0
		f.mu.Unlock()
		if len(ops)+len(callers) == 0 {
			return
		}
		if err == nil {
			err = f.flushStore()
		}
		for _, c := range callers {
			c <- err
		}
		finish(ops, err)
	}
}
