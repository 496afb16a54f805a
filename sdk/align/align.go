// SPDX-License-Identifier: Apache-2.0

package align

import (
	"context"
	"sync"

	"github.com/flexnbd/flexnbd/sdk/rangelock"
	"github.com/flexnbd/flexnbd/sdk/store"
)

// maxBounce is the most that is copied through a bounce buffer at once, in
// bytes: one block of the largest size, or several small ones.
const maxBounce = store.MaxMinBlock

// New returns s itself, or, where s refuses requests that are not a multiple of
// its MinBlock, a store in front of it that takes any. The facts about s have to
// pass [store.Info.Check]. The result owns s: closing it closes s.
func New(s store.Store) store.Store {
	info := s.Info()
	if info.Unaligned == store.HandlesUnaligned || info.MinBlock <= 1 {
		return s
	}
	info.Unaligned = store.HandlesUnaligned
	a := &aligner{
		Store:  s,
		info:   info,
		block:  int64(info.MinBlock),
		bounce: sync.Pool{New: func() any { return new([maxBounce]byte) }},
	}
	a.readers = newReaders(&a.locks, info)
	return a
}

// aligner is the store in front. Flush and Close are those of the Store behind.
type aligner struct {
	store.Store
	info    store.Info
	block   int64 // Info.MinBlock
	locks   rangelock.Lock
	readers *readers  // over locks
	bounce  sync.Pool // of *[maxBounce]byte
}

// Info returns what the store behind said, but with HandlesUnaligned.
func (a *aligner) Info() store.Info { return a.info }

// ReadAt reads the whole blocks around p.
func (a *aligner) ReadAt(ctx context.Context, p []byte, off int64) error {
	for _, piece := range a.pieces(off, len(p)) {
		if piece.empty() {
			continue
		}
		if err := a.read(ctx, p[piece.start-off:piece.end-off], piece); err != nil {
			return err
		}
	}
	return nil
}

// WriteAt writes whole blocks straight and the others by read-modify-write.
func (a *aligner) WriteAt(ctx context.Context, p []byte, off int64, flags store.Flags) error {
	if a.info.ReadOnly {
		return store.ErrReadOnly
	}
	for _, piece := range a.pieces(off, len(p)) {
		if piece.empty() {
			continue
		}
		part := p[piece.start-off : piece.end-off]
		var err error
		if a.aligned(piece) {
			err = a.shared(ctx, piece, func() error {
				return a.Store.WriteAt(ctx, part, piece.start, flags)
			})
		} else {
			err = a.modify(ctx, piece, part, flags)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// PunchHole punches the whole blocks and writes zeroes to the rest, which is
// less than two blocks. The whole blocks come first: only they can be refused,
// and then nothing has changed. Of a disk that discards, the rest stays as it is.
func (a *aligner) PunchHole(ctx context.Context, off, length int64, flags store.Flags) error {
	if a.info.ReadOnly {
		return store.ErrReadOnly
	}
	head, middle, tail := a.split(run{off, off + length})
	if !middle.empty() {
		err := a.shared(ctx, middle, func() error {
			return a.Store.PunchHole(ctx, middle.start, middle.len(), flags)
		})
		if err != nil {
			return err
		}
	}
	if flags&store.Discard != 0 && a.info.CanDiscard {
		return nil
	}
	for _, edge := range [...]run{head, tail} {
		if edge.empty() {
			continue
		}
		if err := a.modify(ctx, edge, nil, flags&store.FUA); err != nil {
			return err
		}
	}
	return nil
}

// Extents asks for the whole blocks around the range and clips the answer.
func (a *aligner) Extents(ctx context.Context, off, length int64) ([]store.Extent, error) {
	asked := run{off, off + length}
	if asked.empty() {
		return nil, nil
	}
	around := a.around(asked)
	extents, err := a.extents(ctx, around)
	if err != nil {
		return nil, err
	}
	clipped := extents[:0]
	for _, e := range extents {
		start, end := max(e.Offset, asked.start), min(e.End(), asked.end)
		if start < end {
			clipped = append(clipped, store.Extent{Offset: start, Length: end - start, State: e.State})
		}
	}
	if len(clipped) == 0 { // the answer ended inside the first block, before off
		return store.AllData(off, length), nil
	}
	return clipped, nil
}

// extents asks for whole blocks. What is said about the bytes beside a small write
// must not change either, so it is a read.
func (a *aligner) extents(ctx context.Context, blocks run) ([]store.Extent, error) {
	at, err := a.readers.enter(ctx, blocks)
	if err != nil {
		return nil, err
	}
	defer a.readers.leave(at)
	return a.Store.Extents(ctx, blocks.start, blocks.len())
}

// read fills p with the bytes of piece, by way of a bounce buffer unless it is
// aligned.
func (a *aligner) read(ctx context.Context, p []byte, piece run) error {
	around := a.around(piece)
	at, err := a.readers.enter(ctx, around)
	if err != nil {
		return err
	}
	defer a.readers.leave(at)
	if piece == around {
		return a.Store.ReadAt(ctx, p, piece.start)
	}
	bounce := a.bounce.Get().(*[maxBounce]byte)
	defer a.bounce.Put(bounce)
	if err := a.Store.ReadAt(ctx, bounce[:around.len()], around.start); err != nil {
		return err
	}
	copy(p, bounce[piece.start-around.start:])
	return nil
}

// modify is the read-modify-write of the blocks around piece: p goes there, or
// zeroes if p is nil. Zeroes that are there already are not written again, so
// that a hole stays one.
func (a *aligner) modify(ctx context.Context, piece run, p []byte, flags store.Flags) error {
	around := a.around(piece)
	claim, err := a.locks.Lock(ctx, around.start, around.end, true)
	if err != nil {
		return err
	}
	defer a.locks.Unlock(claim)

	bounce := a.bounce.Get().(*[maxBounce]byte)
	defer a.bounce.Put(bounce)
	blocks := bounce[:around.len()]
	if err := a.Store.ReadAt(ctx, blocks, around.start); err != nil {
		return err
	}
	part := blocks[piece.start-around.start : piece.end-around.start]
	switch {
	case p != nil:
		copy(part, p)
	case flags&store.FUA == 0 && allZero(part):
		return nil
	default:
		clear(part)
	}
	if err := a.readers.shutOut(ctx, around); err != nil {
		return err
	}
	defer a.readers.letIn()
	return a.Store.WriteAt(ctx, blocks, around.start, flags)
}

// shared calls write while no read-modify-write touches the blocks of piece.
func (a *aligner) shared(ctx context.Context, piece run, write func() error) error {
	claim, err := a.locks.Lock(ctx, piece.start, piece.end, false)
	if err != nil {
		return err
	}
	defer a.locks.Unlock(claim)
	return write()
}

// pieces cuts a range into runs that are either aligned or lie within blocks
// that fit into a bounce buffer. Some may be empty.
func (a *aligner) pieces(off int64, n int) [3]run {
	whole := run{off, off + int64(n)}
	if whole.empty() || a.aligned(whole) || a.around(whole).len() <= maxBounce {
		return [3]run{whole}
	}
	head, middle, tail := a.split(whole)
	return [3]run{head, middle, tail}
}

// split cuts a run at block boundaries: middle is the whole blocks, head and
// tail the rest. A run inside one block is all head.
func (a *aligner) split(r run) (head, middle, tail run) {
	first, last := a.up(r.start), a.down(r.end)
	if first > last {
		return r, run{}, run{}
	}
	return run{r.start, first}, run{first, last}, run{last, r.end}
}

func (a *aligner) aligned(r run) bool   { return (r.start|r.end)&(a.block-1) == 0 }
func (a *aligner) around(r run) run     { return run{a.down(r.start), a.up(r.end)} }
func (a *aligner) down(off int64) int64 { return off &^ (a.block - 1) }
func (a *aligner) up(off int64) int64   { return a.down(off + a.block - 1) }

func allZero(p []byte) bool {
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}
