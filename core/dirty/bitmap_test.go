// SPDX-License-Identifier: GPL-3.0-or-later

package dirty

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
)

// naive is the same with one bool for each granule, and nothing clever.
type naive struct {
	size  int64
	dirty []bool
}

func newNaive(size int64) *naive {
	n := &naive{size: size}
	for at := int64(0); at < size; at += Granule {
		n.dirty = append(n.dirty, false)
	}
	return n
}

// span returns where granule i begins and ends.
func (n *naive) span(i int) (begin, end int64) {
	return int64(i) * Granule, min(int64(i+1)*Granule, n.size)
}

func (n *naive) set(off, length int64, to bool) {
	for i := range n.dirty {
		if begin, end := n.span(i); length > 0 && begin < off+length && off < end {
			n.dirty[i] = to
		}
	}
}

func (n *naive) holds(off, length int64) (anyDirty, allDirty bool) {
	allDirty = true
	for i, d := range n.dirty {
		if begin, end := n.span(i); length > 0 && begin < off+length && off < end {
			anyDirty = anyDirty || d
			allDirty = allDirty && d
		}
	}
	return anyDirty, allDirty
}

func (n *naive) bytes() (total int64) {
	for i, d := range n.dirty {
		if begin, end := n.span(i); d {
			total += end - begin
		}
	}
	return total
}

func (n *naive) next(from, most int64) (off, length int64, ok bool) {
	for i, d := range n.dirty {
		begin, end := n.span(i)
		switch {
		case !ok && d && end > from:
			off, length, ok = begin, end-begin, true
		case ok && d && off+length == begin && begin+Granule-off <= most:
			length = end - off
		case ok:
			return off, length, true
		}
	}
	return off, length, ok
}

func TestBitmapIsWhatOneBoolPerGranuleIs(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, size := range []int64{0, 1, 4096, Granule - 1, Granule, Granule + 1, 63 * Granule, 64 * Granule, 64*Granule + 1, 200*Granule + 512} {
		b, n := New(size), newNaive(size)
		for range 3000 {
			off := rng.Int64N(size + 1)
			length := rng.Int64N(size - off + 1)
			if rng.IntN(2) == 0 {
				length = min(length, 3*Granule)
			}
			switch rng.IntN(8) {
			case 0, 1, 2:
				b.Mark(off, length)
				n.set(off, length, true)
			case 3:
				if rng.IntN(20) == 0 {
					b.MarkAll()
					n.set(0, size, true)
				}
			default:
				off -= off % Granule
				if end := off + length; end < size {
					length = end/Granule*Granule - off
				}
				b.Clear(off, max(length, 0))
				n.set(off, max(length, 0), false)
			}
			compare(t, b, n, rng)
		}
	}
}

func compare(t *testing.T, b *Bitmap, n *naive, rng *rand.Rand) {
	t.Helper()
	if b.Bytes() != n.bytes() {
		t.Fatalf("size %d: %d bytes are dirty, want %d", n.size, b.Bytes(), n.bytes())
	}
	off := rng.Int64N(n.size + 1)
	length := rng.Int64N(n.size - off + 1)
	anyDirty, allDirty := n.holds(off, length)
	if b.AnyDirty(off, length) != anyDirty || b.AllDirty(off, length) != allDirty {
		t.Fatalf("size %d, %d bytes at %d: any %v, all %v, want %v, %v", n.size, length, off,
			b.AnyDirty(off, length), b.AllDirty(off, length), anyDirty, allDirty)
	}
	from, most := rng.Int64N(n.size+2*Granule), rng.Int64N(70*Granule)
	gotOff, gotLen, gotOK := b.Next(from, most)
	wantOff, wantLen, wantOK := n.next(from, most)
	if gotOff != wantOff || gotLen != wantLen || gotOK != wantOK {
		t.Fatalf("size %d: Next(%d, %d) is %d, %d, %v, want %d, %d, %v", n.size, from, most, gotOff, gotLen, gotOK, wantOff, wantLen, wantOK)
	}
}

func TestOneByteDirtiesItsGranule(t *testing.T) {
	b := New(3*Granule + 100)
	b.Mark(Granule+5, 1)
	if off, n, ok := b.Next(0, 1<<30); off != Granule || n != Granule || !ok {
		t.Errorf("got %d bytes at %d, %v", n, off, ok)
	}
	b.Mark(3*Granule+99, 1)
	if off, n, ok := b.Next(2*Granule, 1<<30); off != 3*Granule || n != 100 || !ok {
		t.Errorf("the last granule is cut at the disk's end: got %d bytes at %d, %v", n, off, ok)
	}
	if got := b.Bytes(); got != Granule+100 {
		t.Errorf("%d bytes are dirty", got)
	}
	b.Clear(3*Granule, 100)
	b.Clear(Granule, Granule)
	if _, _, ok := b.Next(0, 1); ok || b.Bytes() != 0 {
		t.Error("something is left")
	}
}

func TestRunsAreCutAtTheGivenLength(t *testing.T) {
	b := New(1 << 30)
	b.MarkAll()
	total := int64(0)
	for from := int64(0); ; {
		off, n, ok := b.Next(from, 1<<20+1)
		if !ok {
			break
		}
		if off != from || n != 1<<20 {
			t.Fatalf("got %d bytes at %d", n, off)
		}
		b.Clear(off, n)
		from, total = off+n, total+n
	}
	if total != 1<<30 || b.Bytes() != 0 {
		t.Errorf("%d bytes were found, %d are left", total, b.Bytes())
	}
	b.MarkAll()
	if _, n, _ := b.Next(0, 0); n != Granule {
		t.Errorf("less than a granule was found: %d bytes", n)
	}
}

func TestRangesThatCannotBeAreBugs(t *testing.T) {
	b := New(3*Granule + 100)
	for name, do := range map[string]func(){
		"negative size":     func() { New(-1) },
		"negative offset":   func() { b.Mark(-1, 1) },
		"negative length":   func() { b.Mark(0, -1) },
		"behind the end":    func() { b.Mark(3*Granule, 101) },
		"sum overflows":     func() { b.AnyDirty(1<<62, 1<<62) },
		"clear inside":      func() { b.Clear(1, Granule) },
		"clear half":        func() { b.Clear(0, 100) },
		"negative position": func() { b.Next(-1, 1) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			do()
		}()
	}
}

// The rule of the package: change, then mark; clear, then read. Whatever the
// interleaving, the copy holds every change in the end.
func TestNoChangeIsLostBetweenMarkersAndCopiers(t *testing.T) {
	const granules, writers, rounds = 70, 3, 20000
	b := New(granules * Granule)
	var disk [granules]atomic.Int64
	var copies [granules]int64
	var busy sync.WaitGroup
	for range writers {
		busy.Go(func() {
			for range rounds {
				g := rand.Int64N(granules)
				disk[g].Add(1)
				b.Mark(g*Granule+17, 1)
			}
		})
	}
	stopped := make(chan struct{})
	go func() {
		busy.Wait()
		close(stopped)
	}()
	pass := func() (found bool) {
		for from := int64(0); ; {
			off, n, ok := b.Next(from, 5*Granule)
			if !ok {
				return found
			}
			found = true
			b.Clear(off, n)
			for g := off / Granule; g < (off+n)/Granule; g++ {
				copies[g] = disk[g].Load()
			}
			from = off + n
		}
	}
	for running := true; running; {
		select {
		case <-stopped:
			running = false
		default:
			pass()
		}
	}
	for pass() {
	}
	for g := range copies {
		if copies[g] != disk[g].Load() {
			t.Errorf("granule %d: %d was copied, the disk has %d", g, copies[g], disk[g].Load())
		}
	}
}

// Marks and clears of neighbours share words, and must not undo each other.
func TestNeighboursInAWordAreIndependent(t *testing.T) {
	const rounds = 5000
	b := New(64 * Granule)
	var wg sync.WaitGroup
	for g := range int64(64) {
		wg.Go(func() {
			for range rounds / 64 {
				b.Mark(g*Granule, Granule)
				if !b.AllDirty(g*Granule, Granule) {
					t.Errorf("granule %d lost its mark", g)
				}
				b.Clear(g*Granule, Granule)
				if b.AnyDirty(g*Granule, Granule) {
					t.Errorf("granule %d kept its mark", g)
				}
			}
			if g%2 == 0 {
				b.Mark(g*Granule, 1)
			}
		})
	}
	wg.Wait()
	if b.Bytes() != 32*Granule {
		t.Errorf("%d bytes are dirty", b.Bytes())
	}
}

func TestNothingIsAllocated(t *testing.T) {
	b := New(1 << 30)
	if n := testing.AllocsPerRun(100, func() {
		b.Mark(12345, 10<<20)
		_, _, _ = b.Next(0, 1<<20)
		b.Clear(0, 1<<20)
		_ = b.AnyDirty(0, 1<<20) && b.AllDirty(0, 1<<20)
		_ = b.Bytes()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func ExampleBitmap() {
	b := New(1 << 20)
	b.Mark(70000, 100000) // the disk was changed there
	off, n, ok := b.Next(0, 1<<20)
	fmt.Println(off, n, ok)
	b.Clear(off, n) // and only then is it read
	fmt.Println(b.Bytes())
	// Output:
	// 65536 131072 true
	// 0
}

func BenchmarkMark(b *testing.B) {
	const size = 1 << 40
	for _, length := range []int64{4 << 10, 32 << 20} {
		b.Run(fmt.Sprintf("%dKiB", length>>10), func(b *testing.B) {
			m := New(size)
			off := int64(0)
			b.ReportAllocs()
			for b.Loop() {
				m.Mark(off, length)
				off = (off + 0x12345000) % (size - length)
			}
		})
	}
	b.Run("marked-already-2-goroutines", func(b *testing.B) {
		m := New(size)
		m.MarkAll()
		b.SetParallelism(1)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				m.Mark(1<<30, 4096)
			}
		})
	})
}

func BenchmarkNext(b *testing.B) {
	const size = 1 << 40
	b.Run("dense", func(b *testing.B) {
		m := New(size)
		m.MarkAll()
		from := int64(0)
		for b.Loop() {
			off, n, ok := m.Next(from, 256<<10)
			if from = off + n; !ok || from == size {
				from = 0
			}
		}
	})
	b.Run("one-in-a-TiB", func(b *testing.B) {
		m := New(size)
		m.Mark(size-1, 1)
		for b.Loop() {
			if _, _, ok := m.Next(0, 256<<10); !ok {
				b.Fatal("not found")
			}
		}
	})
	b.Run("Bytes-of-a-TiB", func(b *testing.B) {
		m := New(size)
		for b.Loop() {
			_ = m.Bytes()
		}
	})
}
