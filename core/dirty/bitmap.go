// SPDX-License-Identifier: GPL-3.0-or-later

package dirty

import (
	"fmt"
	"math/bits"
	"sync/atomic"
)

// Granule is the smallest part of a disk that is remembered, in bytes. The last
// one of a disk may be shorter.
const Granule = 64 << 10

// Bitmap says of each granule of one disk whether it is dirty.
type Bitmap struct {
	size     int64 // of the disk, in bytes
	granules int64
	words    []atomic.Uint64
}

// New returns a bitmap for a disk of size bytes, 0 or more, all of it clean.
func New(size int64) *Bitmap {
	if size < 0 {
		panic(fmt.Sprintf("dirty: a disk of %d bytes", size))
	}
	granules := size / Granule
	if size%Granule != 0 {
		granules++
	}
	return &Bitmap{size: size, granules: granules, words: make([]atomic.Uint64, (granules+63)/64)}
}

// Mark makes every granule dirty that holds any of the length bytes at off. The
// range has to lie inside the disk. It allocates nothing. Call it after the change.
func (b *Bitmap) Mark(off, length int64) {
	first, end := b.touched(off, length)
	b.each(first, end, func(w *atomic.Uint64, mask uint64) bool {
		if w.Load()&mask != mask { // most writes go where others went just before
			w.Or(mask)
		}
		return true
	})
}

// MarkAll makes the whole disk dirty.
func (b *Bitmap) MarkAll() { b.Mark(0, b.size) }

// Clear makes the granules of a range clean: off and length are multiples of
// Granule, but for a length that ends where the disk does. Call it before the
// range is read.
func (b *Bitmap) Clear(off, length int64) {
	first, end := b.touched(off, length)
	if off%Granule != 0 || length%Granule != 0 && off+length != b.size {
		panic(fmt.Sprintf("dirty: clearing %d bytes at %d, which are not whole granules", length, off))
	}
	b.each(first, end, func(w *atomic.Uint64, mask uint64) bool {
		w.And(^mask)
		return true
	})
}

// AnyDirty reports whether any granule is dirty that holds any of the range.
func (b *Bitmap) AnyDirty(off, length int64) bool {
	first, end := b.touched(off, length)
	return !b.each(first, end, func(w *atomic.Uint64, mask uint64) bool { return w.Load()&mask == 0 })
}

// AllDirty reports whether all granules are dirty that hold any of the range. Of
// no bytes that is true.
func (b *Bitmap) AllDirty(off, length int64) bool {
	first, end := b.touched(off, length)
	return b.each(first, end, func(w *atomic.Uint64, mask uint64) bool { return w.Load()&mask == mask })
}

// Next returns the first run of dirty granules at or after from: where it begins
// and how long it is, at most the given number of bytes, but never less than a
// granule or what the disk has of it. A from inside a granule means the granule.
// ok is false when there is none.
func (b *Bitmap) Next(from, most int64) (off, length int64, ok bool) {
	if from < 0 {
		panic(fmt.Sprintf("dirty: looking from %d", from))
	}
	if from >= b.size {
		return 0, 0, false
	}
	first := b.find(from/Granule, b.granules, 0)
	if first == b.granules {
		return 0, 0, false
	}
	limit := min(b.granules-first, max(1, most/Granule))
	end := b.find(first+1, first+limit, ^uint64(0))
	return first * Granule, min(end*Granule, b.size) - first*Granule, true
}

// Bytes returns how much of the disk is dirty, in bytes. It looks at every word.
func (b *Bitmap) Bytes() int64 {
	var n int
	for i := range b.words {
		n += bits.OnesCount64(b.words[i].Load())
	}
	total := int64(n) * Granule
	if tail := b.size % Granule; tail != 0 && b.AnyDirty(b.size-tail, tail) {
		total -= Granule - tail
	}
	return max(total, 0) // the last granule may have become dirty since it was counted
}

// find returns the first granule from from on, before end, whose bit differs from
// those of same, which is all zeroes or all ones; end if there is none.
func (b *Bitmap) find(from, end int64, same uint64) int64 {
	for at := from; at < end; at = (at/64 + 1) * 64 {
		differ := (b.words[at/64].Load() ^ same) >> (at % 64)
		if differ != 0 {
			return min(at+int64(bits.TrailingZeros64(differ)), end)
		}
	}
	return end
}

// touched returns the granules that hold any of a range: from first to end, which
// is not one of them.
func (b *Bitmap) touched(off, length int64) (first, end int64) {
	if off < 0 || length < 0 || off > b.size || length > b.size-off {
		panic(fmt.Sprintf("dirty: %d bytes at %d are not inside a disk of %d bytes", length, off, b.size))
	}
	if length == 0 {
		return 0, 0
	}
	return off / Granule, (off+length-1)/Granule + 1
}

// each calls do for the words that hold the granules from first to end, with a mask
// of their bits, until it returns false, and reports whether it never did.
func (b *Bitmap) each(first, end int64, do func(w *atomic.Uint64, mask uint64) bool) bool {
	for first < end {
		n := min(end-first, 64-first%64)
		mask := ^uint64(0) >> (64 - n) << (first % 64)
		if !do(&b.words[first/64], mask) {
			return false
		}
		first += n
	}
	return true
}
