// SPDX-License-Identifier: GPL-3.0-or-later

package export

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/flexnbd/flexnbd/sdk/store"
)

// markZero is a zeroing that nobody disturbs.
func (z *zeroMap) markZero(off, length int64) {
	var t token
	z.beginZero(&t, off, length)
	z.endZero(&t, off, off, length)
}

func TestBitmapAgreesWithAPlainOne(t *testing.T) {
	const blocks = 3000
	base := int64(chunkSize>>blockBits - 1000) // across the border of two chunks
	rnd := rand.New(rand.NewPCG(5, 6))
	var b bitmap
	plain := make([]bool, blocks)
	for range 3000 {
		first := rnd.Int64N(blocks)
		last := first + rnd.Int64N(min(blocks-first, 200)+1)
		all, some := true, false
		for i := first; i < last; i++ {
			all, some = all && plain[i], some || plain[i]
		}
		if b.all(base+first, base+last) != all || b.any(base+first, base+last) != some {
			t.Fatalf("blocks %d to %d: all %v, any %v", first, last, !all, !some)
		}
		set := rnd.IntN(2) == 0
		if set {
			b.set(base+first, base+last)
		} else {
			b.clear(base+first, base+last)
		}
		for i := first; i < last; i++ {
			plain[i] = set
		}
	}
	for i := range int64(blocks) {
		if b.isSet(base+i) != plain[i] {
			t.Fatalf("block %d is %v", i, !plain[i])
		}
	}
	if n := b.chunks.Load(); n != 2 {
		t.Fatalf("%d chunks taken, want 2", n)
	}
}

func TestBitmapTakesNoMoreThanItsShare(t *testing.T) {
	var b bitmap
	const perChunk = chunkSize >> blockBits
	for i := range int64(maxChunks + 5) {
		b.set(i*perChunk*7, i*perChunk*7+1)
	}
	if n := b.chunks.Load(); n != maxChunks || !b.full() {
		t.Fatalf("%d chunks taken, want %d", n, maxChunks)
	}
	if !b.isSet((maxChunks-1)*perChunk*7) || b.isSet(maxChunks*perChunk*7) {
		t.Fatal("not the first ones are known")
	}
	b.set(1, 2) // where there is memory already
	if !b.isSet(1) {
		t.Fatal("a full map takes no more bits")
	}
}

func TestOnlyWholeBlocksBecomeZero(t *testing.T) {
	const size = 10*blockSize + 77
	for _, c := range []struct{ off, length, first, last int64 }{
		{0, blockSize, 0, 1},
		{1, blockSize, 0, 0},
		{1, 2 * blockSize, 1, 2},
		{0, size, 0, 11},
		{10 * blockSize, 77, 10, 11},
		{10 * blockSize, 76, 0, 0},
		{10*blockSize + 1, 76, 0, 0},
		{9*blockSize + 1, blockSize + 76, 10, 11},
		{5, 0, 0, 0},
	} {
		z := newZeroMap(size)
		z.markZero(c.off, c.length)
		for b := range int64(11) {
			if z.bits.isSet(b) != (b >= c.first && b < c.last) {
				t.Errorf("%d bytes at %d: block %d is %v", c.length, c.off, b, z.bits.isSet(b))
			}
		}
	}
}

func TestWriteClearsEveryBlockItTouches(t *testing.T) {
	const size = 3 * regionSize
	z := newZeroMap(size)
	z.markZero(0, size)
	z.beginWrite(regionSize-1, 2) // two regions
	z.endWrite(regionSize-1, 2)
	last := int64(regionSize>>blockBits - 1)
	for b := range int64(size >> blockBits) {
		if z.bits.isSet(b) == (b == last || b == last+1) {
			t.Fatalf("block %d is %v", b, z.bits.isSet(b))
		}
	}
}

func TestBuildLearnsWhatReadsAsZero(t *testing.T) {
	const k = blockSize
	s := newTestStore(chunkSize + 10*k + 5)
	s.data = nil
	full := []store.Extent{
		{Offset: 0, Length: k, State: store.Zero},
		{Offset: k, Length: k, State: store.Hole},
		{Offset: 2 * k, Length: k / 2, State: store.Zero},
		{Offset: 2*k + k/2, Length: k / 2, State: store.Zero | store.Hole},
		{Offset: 3 * k, Length: k/2 + 1, State: store.Data},
		{Offset: 3*k + k/2 + 1, Length: chunkSize, State: store.Zero | store.Hole},
		{Offset: 3*k + k/2 + 1 + chunkSize, Length: 6*k + k/2 + 4, State: store.Zero},
	}
	for _, most := range []int64{1 << 62, 5000, 4 * k, 3*k + k/2 + 1} { // short answers
		s.extents = func(off, length int64) (found []store.Extent, err error) {
			if off > 16*k && off < chunkSize-16*k {
				most = 1 << 62
			}
			end := min(off+length, off+most)
			for _, x := range full {
				if from, to := max(x.Offset, off), min(x.End(), end); from < to {
					found = append(found, store.Extent{Offset: from, Length: to - from, State: x.State})
				}
			}
			return found, nil
		}
		e := serve(t, s)
		for b := range int64((chunkSize+10*k)/k + 1) {
			if want := b != 1 && b != 3; e.zeros.bits.isSet(b) != want {
				t.Fatalf("answers of %d bytes: block %d known to be zero: %v", most, b, !want)
			}
		}
	}
}

func TestHugeSparseDiskOpensInBoundedMemory(t *testing.T) {
	s := newTestStore(0)
	s.info.Size = store.MaxSize
	calls := 0
	s.extents = func(off, length int64) ([]store.Extent, error) {
		calls++
		s.calls = nil
		return []store.Extent{
			{Offset: off, Length: blockSize, State: store.Hole | store.Zero},
			{Offset: off + blockSize, Length: length - blockSize}, // quicker
		}, nil
	}
	e := serve(t, s)
	if n := e.zeros.bits.chunks.Load(); n != maxChunks || calls > maxChunks+1 {
		t.Fatalf("%d chunks after %d calls", n, calls)
	}
	c := e.connect(t)
	if r := c.must(read(1<<30, 100)); !r.Zero {
		t.Fatal("not known to be zero")
	}
	for _, off := range []int64{1 << 42, 1 << 55, store.MaxSize - MaxZeroPiece} {
		c.must(flush())
		e.zeros.beginWrite(off, MaxZeroPiece)
		e.zeros.endWrite(off, MaxZeroPiece)
		e.zeros.markZero(off, MaxZeroPiece)
		if e.zeros.knownZero(off, 1) {
			t.Fatalf("%d is known to be zero in a full map", off)
		}
	}
}

func TestDenseDiskTakesNoBitmap(t *testing.T) {
	s := newTestStore(4 * regionSize)
	copy(s.data, filled(4*regionSize, 1))
	e := serve(t, s)
	e.connect(t).must(write(0, make([]byte, regionSize), 0))
	if n := e.zeros.bits.chunks.Load(); n != 0 {
		t.Fatalf("%d chunks", n)
	}
}

func TestZeroScanFindsEveryByte(t *testing.T) {
	for n := range 40 {
		p := make([]byte, n)
		if !allZero(p) {
			t.Fatalf("%d zeroes are none", n)
		}
		for i := range p {
			p[i] = 1
			if allZero(p) {
				t.Fatalf("byte %d of %d was overlooked", i, n)
			}
			p[i] = 0
		}
	}
	p := make([]byte, blockSize)
	p[blockSize-1] = 1
	if allZero(p) {
		t.Fatal("the last byte was overlooked")
	}
	if !bytes.Equal(zeroes[:], make([]byte, len(zeroes))) {
		t.Fatal("somebody wrote to the zeroes")
	}
}
