// SPDX-License-Identifier: GPL-3.0-or-later

package export

import (
	"math"
	"sync"
)

// numStripes is how many locks the zero map has. Region i of the disk belongs
// to stripe i modulo numStripes, so a range of up to numStripes regions meets
// each stripe at most once.
const numStripes = chunkSize / regionSize

// maxSpan is the longest range that a token may stand for.
const maxSpan = numStripes * regionSize

// zeroMap knows of each block of a disk whether it is known to read as zeroes.
// The package comment has the protocol and why it holds.
type zeroMap struct {
	size    int64 // of the disk
	bits    bitmap
	stripes [numStripes]stripe
}

// stripe orders whatever changes the bits of its regions. Nobody holds two.
type stripe struct {
	mu      sync.Mutex
	writers int    // writes in flight
	seq     uint64 // writes started, ever
	_       [40]byte
}

// token is what a zeroing remembers from its beginning: for each region of its
// range the stripe's seq, or writing.
type token struct{ seqs []uint64 }

// writing in a token: a write was in flight at the beginning. No seq gets there.
const writing = math.MaxUint64

// untouched is the rule that keeps a zeroing from hiding a write: it may set
// bits only if no write was in flight when it began and none has begun since.
// A variable so that tests can show what happens without it.
var untouched = func(s *stripe, since uint64) bool { return s.seq == since }

func newZeroMap(size int64) *zeroMap { return &zeroMap{size: size} }

// knownZero says whether every byte of the range reads as zero, at some moment
// between the call and the return.
func (z *zeroMap) knownZero(off, length int64) bool {
	return z.bits.all(z.touched(off, length))
}

// maybeZero says whether a block that the range touches is known to be zero.
func (z *zeroMap) maybeZero(off, length int64) bool {
	return z.bits.any(z.touched(off, length))
}

// beginWrite says that the range may hold anything from now on. It comes before
// the write is issued; endWrite, with the same range, after it has ended in
// whatever way.
func (z *zeroMap) beginWrite(off, length int64) {
	for r := range z.regions(off, length) {
		s := z.stripe(r)
		s.mu.Lock()
		s.writers++
		s.seq++
		z.bits.clear(z.touched(clip(r, off, length)))
		s.mu.Unlock()
	}
}

// endWrite ends what beginWrite began.
func (z *zeroMap) endWrite(off, length int64) {
	for r := range z.regions(off, length) {
		s := z.stripe(r)
		s.mu.Lock()
		s.writers--
		s.mu.Unlock()
	}
}

// beginZero fills in the token of a zeroing, or of a look at the extents, of at
// most maxSpan bytes. It comes before the store is asked.
func (z *zeroMap) beginZero(t *token, off, length int64) {
	t.seqs = t.seqs[:0]
	for r := range z.regions(off, length) {
		s := z.stripe(r)
		s.mu.Lock()
		seq := s.seq
		if s.writers > 0 {
			seq = writing
		}
		s.mu.Unlock()
		t.seqs = append(t.seqs, seq)
	}
}

// endZero marks the whole blocks of the range zero where no write has come
// between. The range is that of beginZero or, with first being the offset that
// beginZero had, a part of it.
func (z *zeroMap) endZero(t *token, first, off, length int64) {
	for r := range z.regions(off, length) {
		s := z.stripe(r)
		s.mu.Lock()
		if untouched(s, t.seqs[r-first>>regionBits]) {
			z.bits.set(z.whole(clip(r, off, length)))
		}
		s.mu.Unlock()
	}
}

// failZero is endZero for a zeroing that failed half-way, perhaps after steps
// that nobody foresaw: the range may hold anything.
func (z *zeroMap) failZero(off, length int64) {
	z.beginWrite(off, length)
	z.endWrite(off, length)
}

// forget clears every bit, and keeps zeroings that are under way from setting
// any.
func (z *zeroMap) forget() {
	for i := range z.stripes {
		s := &z.stripes[i]
		s.mu.Lock()
		s.seq++
		z.bits.clearStripe(i)
		s.mu.Unlock()
	}
}

func (z *zeroMap) stripe(region int64) *stripe { return &z.stripes[region%numStripes] }

// regions counts through the regions that a range touches.
func (z *zeroMap) regions(off, length int64) func(func(int64) bool) {
	return func(yield func(int64) bool) {
		for r := off >> regionBits; r<<regionBits < off+length && yield(r); r++ {
		}
	}
}

// clip returns the part of a range that lies in a region.
func clip(region, off, length int64) (int64, int64) {
	start := max(off, region<<regionBits)
	return start, min(off+length, (region+1)<<regionBits) - start
}

// touched returns the blocks that a range touches, the last one excluded.
func (z *zeroMap) touched(off, length int64) (first, last int64) {
	if length == 0 {
		return 0, 0
	}
	return off >> blockBits, (off+length-1)>>blockBits + 1
}

// whole returns the blocks that a range covers, the last one excluded. The
// disk's last block may be a short one; it is covered by a range that reaches
// the disk's end.
func (z *zeroMap) whole(off, length int64) (first, last int64) {
	first, last = (off+blockSize-1)>>blockBits, (off+length)>>blockBits
	if end := off + length; end == z.size && end%blockSize != 0 {
		last++
	}
	return first, last
}
