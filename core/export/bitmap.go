// SPDX-License-Identifier: GPL-3.0-or-later

package export

import "sync/atomic"

// The geometry of the zero map, from small to large.
const (
	blockBits  = 12 // one bit stands for a block of 4 KiB
	regionBits = 20 // one stripe's lock covers regions of 1 MiB: four words, never part of one
	chunkBits  = 30 // memory is taken for 1 GiB of disk at a time: 32 KiB
	shelfBits  = 40 // and a shelf of pointers for 1 TiB: 8 KiB
	reachBits  = 50 // nothing is known beyond 1 PiB

	blockSize  = 1 << blockBits
	regionSize = 1 << regionBits
	chunkSize  = 1 << chunkBits

	wordsPerChunk  = 1 << (chunkBits - blockBits - 6)
	chunksPerShelf = 1 << (shelfBits - chunkBits)
	shelves        = 1 << (reachBits - shelfBits)

	// maxChunks bounds the map at 64 MiB of memory: 2 TiB of disk, wherever
	// they lie. What does not fit stays "may hold data".
	maxChunks = (64 << 20) / (wordsPerChunk * 8)
)

// bitmap is one bit for each block of a disk, all clear at first. Memory is
// taken when the first bit of a chunk is set, and kept. Everybody may read at
// any time; who writes holds the lock of the block's stripe.
type bitmap struct {
	root   [shelves]atomic.Pointer[shelf]
	chunks atomic.Int32 // taken so far, at most maxChunks
}

type (
	shelf [chunksPerShelf]atomic.Pointer[chunk]
	chunk [wordsPerChunk]atomic.Uint64
)

// word returns the word with block's bit, or nil if all of its chunk is clear.
func (b *bitmap) word(block int64) *atomic.Uint64 {
	off := block << blockBits
	if off>>reachBits != 0 {
		return nil
	}
	sh := b.root[off>>shelfBits].Load()
	if sh == nil {
		return nil
	}
	c := sh[off>>chunkBits%chunksPerShelf].Load()
	if c == nil {
		return nil
	}
	return &c[block>>6%wordsPerChunk]
}

// makeWord is word that takes memory where there is none, and returns nil where
// there may be none. Two stripes may meet in a new chunk: one of them wins.
func (b *bitmap) makeWord(block int64) *atomic.Uint64 {
	if w := b.word(block); w != nil {
		return w
	}
	off := block << blockBits
	if off>>reachBits != 0 || b.full() {
		return nil
	}
	slot := &b.root[off>>shelfBits]
	if slot.Load() == nil {
		slot.CompareAndSwap(nil, new(shelf))
	}
	if b.chunks.Add(1) > maxChunks || !slot.Load()[off>>chunkBits%chunksPerShelf].CompareAndSwap(nil, new(chunk)) {
		b.chunks.Add(-1)
	}
	return b.word(block)
}

// full says that no more memory may be taken.
func (b *bitmap) full() bool { return b.chunks.Load() >= maxChunks }

// isSet returns one bit.
func (b *bitmap) isSet(block int64) bool {
	w := b.word(block)
	return w != nil && w.Load()&(1<<(block&63)) != 0
}

// all says whether the blocks first to last, excluding last, are all set. It
// is true of no blocks.
func (b *bitmap) all(first, last int64) bool {
	for first < last {
		mask, next := wordMask(first, last)
		w := b.word(first)
		if w == nil || w.Load()&mask != mask {
			return false
		}
		first = next
	}
	return true
}

// any says whether one of the blocks first to last, excluding last, is set.
func (b *bitmap) any(first, last int64) bool {
	for first < last {
		mask, next := wordMask(first, last)
		if w := b.word(first); w != nil && w.Load()&mask != 0 {
			return true
		}
		first = next
	}
	return false
}

// set sets the blocks first to last, excluding last, as far as there is memory.
func (b *bitmap) set(first, last int64) {
	for first < last {
		mask, next := wordMask(first, last)
		if w := b.makeWord(first); w != nil {
			w.Or(mask)
		}
		first = next
	}
}

// clear clears the blocks first to last, excluding last.
func (b *bitmap) clear(first, last int64) {
	for first < last {
		mask, next := wordMask(first, last)
		if w := b.word(first); w != nil && w.Load()&mask != 0 {
			w.And(^mask)
		}
		first = next
	}
}

// clearStripe clears the regions that belong to one stripe, on the whole disk. A
// chunk has one region of each.
func (b *bitmap) clearStripe(stripe int) {
	const words = 1 << (regionBits - blockBits - 6) // in a region
	for i := range b.root {
		sh := b.root[i].Load()
		if sh == nil {
			continue
		}
		for j := range sh {
			c := sh[j].Load()
			if c == nil {
				continue
			}
			for k := stripe * words; k < (stripe+1)*words; k++ {
				c[k].Store(0)
			}
		}
	}
}

// wordMask returns the bits of first's word that lie in first to last, and the
// first block behind them.
func wordMask(first, last int64) (mask uint64, next int64) {
	next = min((first|63)+1, last)
	return ^uint64(0) >> (64 - (next - first)) << (first & 63), next
}
