// SPDX-License-Identifier: GPL-3.0-or-later

package mirror

import (
	"context"
	"time"

	"github.com/flexnbd/flexnbd/core/dirty"
	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// The window: what is on its way at a time, over all connections. Memory for payload
// is bounded by it, however large the disk is.
const (
	pieceSize = 256 << 10 // one read of the local disk, and mostly one WRITE
	window    = 16 << 20
	numPieces = window / pieceSize

	// A queue lends wire.DefaultBudget of payload memory, so that the window takes
	// several; each piece belongs to one, which then never makes it wait.
	numReaders = window / wire.DefaultBudget

	maxZero   = 64 << 20 // the longest WRITE_ZEROES
	lookAhead = 64 << 20 // the longest run that is looked at in one go
	// smallRun is the shortest run for which the extent map is asked: a shorter one
	// is read sooner than that.
	smallRun = 1 << 20
)

// copier copies ranges of the local disk to the destination, many at a time. One
// goroutine calls its methods.
//
// A range goes through these hands, none of which waits for another piece:
//
//	copyRange   takes a piece of the window, locks the range, clears its dirty
//	            bits, borrows memory, submits the read
//	landed      the reader's sink: finds the zeroes, sends the rest
//	replied     called by the connection for each reply: after the last, the lock,
//	            the memory and the piece are given back
//
// The order lock, clear, read is what makes the copy right. A change that lands after
// the clear marks the range again; and while the range is locked nobody else sends
// any of it, so the destination never gets an older state after a newer one.
type copier struct {
	t       *transfer
	readers []wire.Queue
	free    chan *piece // those not in use
	pacer   *pacer
}

func newCopier(t *transfer) *copier {
	c := &copier{t: t, free: make(chan *piece, numPieces), pacer: newPacer()}
	for range numReaders {
		c.readers = append(c.readers, t.export.NewReader(c.landed))
	}
	lines := t.remote.bulk()
	for i := range numPieces {
		p := &piece{copier: c, reader: c.readers[i%len(c.readers)], line: lines[i%len(lines)]}
		p.answered = p.reply
		c.free <- p
	}
	return c
}

// close waits until nothing is read any more. The connections have been closed
// before, so that nothing is under way there either.
func (c *copier) close() {
	for _, r := range c.readers {
		_ = r.Close()
	}
}

// settle waits until nothing is in flight. The error is ctx's, also if that has ended
// meanwhile: a piece that failed comes back too.
func (c *copier) settle(ctx context.Context) error {
	for range numPieces {
		select {
		case p := <-c.free:
			defer func() { c.free <- p }()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return context.Cause(ctx)
}

// pass copies every run of dirty granules, from the disk's start to its end, once.
// What becomes dirty meanwhile is copied if it lies ahead. It does not wait for the
// last replies.
func (c *copier) pass(ctx context.Context, capped bool) error {
	for from := int64(0); ; {
		off, length, ok := c.t.bitmap.Next(from, lookAhead)
		if !ok {
			return nil
		}
		end, err := c.run(ctx, off, off+length, capped)
		if err != nil {
			return err
		}
		from = end
	}
}

// run copies a run of dirty granules, or the part of it that the extent map tells of,
// and returns where it stopped.
func (c *copier) run(ctx context.Context, off, end int64, capped bool) (int64, error) {
	if end-off < smallRun || !c.t.remote.canZero() || !c.t.export.Info().CanExtents {
		return end, c.data(ctx, off, end, capped)
	}
	extents, err := c.t.export.Extents(ctx, off, end-off)
	if err != nil {
		return 0, local("asking for the extents of", off, end-off, err)
	}
	if end = c.granuleEnd(extents[len(extents)-1].End()); end <= off {
		end = off + dirty.Granule // less than that was told; it is data then
	}
	for from, to := range zeroRuns(extents) {
		from, to = granuleStart(from), c.granuleEnd(to)
		if to-from < dirty.Granule && to != c.t.size || from >= to || from >= end {
			continue
		}
		if err := c.data(ctx, off, from, capped); err != nil {
			return 0, err
		}
		if err := c.zero(ctx, from, to, capped); err != nil {
			return 0, err
		}
		off = to
	}
	return end, c.data(ctx, off, end, capped)
}

// zeroRuns counts through the runs of extents that read as zeroes.
func zeroRuns(extents []store.Extent) func(func(from, to int64) bool) {
	return func(yield func(from, to int64) bool) {
		for i := 0; i < len(extents); i++ {
			if extents[i].State&store.Zero == 0 {
				continue
			}
			from := extents[i].Offset
			for i+1 < len(extents) && extents[i+1].State&store.Zero != 0 {
				i++
			}
			if !yield(from, extents[i].End()) {
				return
			}
		}
	}
}

// granuleStart is the first granule that begins at or after off, granuleEnd the end of
// the last that ends at or before it; the disk's last granule ends with the disk.
func granuleStart(off int64) int64 { return (off + dirty.Granule - 1) &^ (dirty.Granule - 1) }

func (c *copier) granuleEnd(off int64) int64 {
	if off == c.t.size {
		return off
	}
	return off &^ (dirty.Granule - 1)
}

// data copies the granules from off to end by reading them. Under the hold nothing is
// capped, and nobody is there to be polite to.
func (c *copier) data(ctx context.Context, off, end int64, capped bool) error {
	for length := int64(0); off < end; off += length {
		length = min(pieceSize, end-off)
		if capped {
			size, err := c.pacer.wait(ctx, c.t.export.Gate().Busy())
			if err != nil {
				return err
			}
			length = min(length, size)
			if err := c.t.limit.wait(ctx, length); err != nil {
				return err
			}
		}
		p, err := c.take(ctx, off, length)
		if err != nil {
			return err
		}
		p.charged = capped
		if err := p.read(ctx); err != nil {
			return err
		}
	}
	return nil
}

// zero copies the granules from off to end, which the extent map calls zeroes. Only
// what it says about a locked range counts: a client's write may have come, and have
// been sent, since it was asked.
func (c *copier) zero(ctx context.Context, off, end int64, capped bool) error {
	for ; off < end; off += maxZero {
		length := min(maxZero, end-off)
		p, err := c.take(ctx, off, length)
		if err != nil {
			return err
		}
		zero, err := c.readsAsZero(ctx, off, length)
		switch {
		case err != nil:
			p.abandon()
			return err
		case zero:
			p.sendZero()
			continue
		}
		p.abandon()
		if err := c.data(ctx, off, off+length, capped); err != nil {
			return err
		}
	}
	return nil
}

// readsAsZero asks the extent map.
func (c *copier) readsAsZero(ctx context.Context, off, length int64) (bool, error) {
	for end := off + length; off < end; {
		extents, err := c.t.export.Extents(ctx, off, end-off)
		if err != nil {
			return false, local("asking for the extents of", off, end-off, err)
		}
		for _, x := range extents {
			if x.State&store.Zero == 0 {
				return false, nil
			}
			off = x.End()
		}
	}
	return true, nil
}

// take makes a range a piece's own: waits for one, locks the range and clears its
// bits.
func (c *copier) take(ctx context.Context, off, length int64) (*piece, error) {
	var p *piece
	select {
	case p = <-c.free:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	claim, err := c.t.ranges.Lock(ctx, off, off+length, true)
	if err != nil {
		c.free <- p
		return nil, context.Cause(ctx)
	}
	p.claim, p.off, p.length, p.charged = claim, off, length, false
	p.began = time.Now()
	c.pacer.begin()
	c.t.bitmap.Clear(off, length)
	return p, nil
}

// landed is the readers' sink.
func (c *copier) landed(done []*wire.Request) {
	for _, r := range done {
		r.Owner.(*piece).send()
	}
}
