// SPDX-License-Identifier: GPL-3.0-or-later

package mirror

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flexnbd/flexnbd/core/dirty"
	"github.com/flexnbd/flexnbd/core/export"
	"github.com/flexnbd/flexnbd/core/failpoint"
	"github.com/flexnbd/flexnbd/core/owner"
	"github.com/flexnbd/flexnbd/sdk/rangelock"
	"github.com/flexnbd/flexnbd/sdk/store"
)

// transfer is one attempt: it ends with the disk given away, or alone.
type transfer struct {
	m      *mirroring
	id     owner.ID
	export *export.Export
	size   int64
	limit  *limit

	// ctx ends with the attempt; its cause is what ended it.
	ctx    context.Context
	cancel context.CancelCauseFunc

	remote    *remote
	maxWrite  int // bytes of one WRITE
	leastZero int // bytes of zeroes within a piece that are sent as such; 0: none are

	bitmap   *dirty.Bitmap
	ranges   rangelock.Lock // whoever sends a range has it locked
	copier   *copier
	through  *through
	watchers sync.WaitGroup // of the connections

	answered atomic.Int64 // requests with data or zeroes that the destination has carried out
	speed    *speed
	pace     float64       // bytes per second of the latest pass that was long enough to tell; 0: none was
	flushed  int64         // what had been sent at the latest flush of the destination
	flushing time.Duration // how long that took
	intended bool          // .MIGRATED.next has this attempt's id
	misses   int           // holds that were given up
	nextHold time.Time
	nextLook time.Time // when the source's disk is to be flushed again
}

// newTransfer takes over the first connection.
func newTransfer(m *mirroring, id owner.ID, r *remote) *transfer {
	e := m.source.config.Export
	t := &transfer{m: m, id: id, export: e, size: e.Size(), limit: m.limit, remote: r, speed: newSpeed(time.Now())}
	t.ctx, t.cancel = context.WithCancelCause(m.ctx)
	t.bitmap = dirty.New(t.size)
	t.maxWrite = int(min(pieceSize, r.longestWrite()))
	switch block := r.minBlock(); {
	case block > zeroBlock:
	case r.kind == remoteFlexnbd:
		t.leastZero = zeroBlock // which knows its zeroes, so that they cost it nothing
	default:
		t.leastZero = 32 << 10
	}
	return t
}

// fail ends the attempt. The first reason stays.
func (t *transfer) fail(err error) { t.cancel(err) }

// sent notes what the destination has carried out.
func (t *transfer) sent(now time.Time, bytes int64) {
	t.answered.Add(1)
	t.speed.add(now, bytes)
}

// run is the attempt. It returns the migration's outcome, or why the attempt ended
// without one; then the gate is open, unless the error wraps owner.ErrUncertain, and
// in either case nothing of the attempt is left.
func (t *transfer) run() (*Outcome, error) {
	outcome, err := t.carryOut()
	if cause := context.Cause(t.ctx); err != nil && cause != nil && !errors.Is(err, owner.ErrUncertain) {
		err = cause // what came first
	}
	t.cancel(errStopped)
	t.end()
	return outcome, err
}

func (t *transfer) carryOut() (*Outcome, error) {
	t.watch(0)
	refused, err := t.m.source.join(t.ctx, t.remote, &t.m.order, t.m.source.hello(t.id, t.m.replaces))
	if err != nil {
		return nil, err
	}
	t.m.goesOnWith(t.remote, refused)
	t.watch(1)
	t.copier, t.through = newCopier(t), newThrough(t)
	t.m.become(StateCopying, t)
	t.export.Track(&tracker{t.bitmap, t.through})
	if err := t.markAll(); err != nil {
		return nil, err
	}
	if err := failpoint.Hit("source-copying"); err != nil {
		return nil, err
	}
	return t.converge()
}

// watch watches the connections from a number on.
func (t *transfer) watch(from int) {
	for _, line := range t.remote.lines[from:] {
		t.watchers.Go(func() { t.remote.watch(t.ctx, line, t.fail) })
	}
}

// end waits until nothing of the attempt runs. Clients do not wait for that: those
// who did are resumed first, and the gate has been opened.
func (t *transfer) end() {
	t.export.Track(nil)
	if t.through != nil {
		t.through.end()
	}
	t.remote.close()
	if t.through != nil {
		t.copier.close()
		t.through.close()
	}
	t.watchers.Wait()
}

// markAll marks what has to be sent: all of the disk, or only its data if the
// destination reads as zeroes everywhere. Tracking is on already, so a change that is
// not in the extent map is marked by itself.
func (t *transfer) markAll() error {
	if !t.remote.readsAsZeroes() {
		t.bitmap.MarkAll()
		return nil
	}
	for off := int64(0); off < t.size; {
		extents, err := t.export.Extents(t.ctx, off, min(t.size-off, lookAhead))
		if err != nil {
			return local("asking for the extents of", off, t.size-off, err)
		}
		for _, x := range extents {
			if x.State&store.Zero == 0 { // also a hole that may read as anything
				t.bitmap.Mark(x.Offset, x.Length)
			}
			off = x.End()
		}
		if t.ctx.Err() != nil {
			return context.Cause(t.ctx)
		}
	}
	return nil
}

// intend durably writes down whom the destination is about to be prepared for. It
// comes after the first data was answered, so that an older attempt that is on record
// is no longer prepared there, and before the hold, which is short.
func (t *transfer) intend() error {
	if t.intended || t.m.order.Rehearse || t.remote.kind != remoteFlexnbd {
		return nil
	}
	if t.answered.Load() == 0 {
		if err := t.sendFirst(); err != nil {
			return err
		}
	}
	if err := t.m.source.config.Records.Intend(t.departure()); err != nil {
		return fmt.Errorf("writing down whom the destination is prepared for: %w", err)
	}
	t.intended = true
	return failpoint.Hit("source-next-written")
}

// sendFirst sends the disk's first granule, where there was nothing else to send.
func (t *transfer) sendFirst() error {
	if err := t.copier.data(t.ctx, 0, min(dirty.Granule, t.size), true); err != nil {
		return err
	}
	return t.copier.settle(t.ctx)
}

// departure is the record of this attempt.
func (t *transfer) departure() owner.Departure {
	return owner.Departure{
		ID:          t.id,
		To:          t.remote.addresses(t.m.order.To),
		From:        owner.Address(t.m.order.Bind),
		Unlink:      t.m.order.Unlink,
		Unconfirmed: t.remote.kind != remoteFlexnbd,
	}
}
