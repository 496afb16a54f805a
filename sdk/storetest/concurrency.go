// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/flexnbd/flexnbd/sdk/store"
)

// randomOperationsMatchAModel does random things to the disk and to a byte slice
// and compares the two. The seed it prints repeats the run.
func randomOperationsMatchAModel(t testing.TB, b *bench) {
	t.Logf("seed %d (set Suite.Seed to repeat)", b.Seed)
	d := b.open(t, b.usual())
	rng := rand.New(rand.NewPCG(b.Seed, 0))
	for i := range 400 {
		s := randomSpan(rng, int64(len(d.model)), d.unit)
		did := fmt.Sprintf("seed %d, after operation %d", b.Seed, i)
		switch n := rng.IntN(100); {
		case n < 35:
			d.write(s, 0)
		case n < 40 && d.info.FUA != store.None:
			d.write(s, store.FUA)
		case n < 55:
			d.punch(s, 0)
		case n < 65:
			d.punch(s, store.Flags(rng.IntN(8)))
		case n < 70: // what a discarded range holds is known once it is written
			d.punch(s, store.Discard)
			d.write(s, 0)
		case n < 80:
			for _, e := range d.extents(s) {
				if e.State&store.Zero != 0 && firstNonZero(d.model[e.Offset:e.End()]) >= 0 {
					t.Fatalf("%s, data at %d is in an extent that says zero", did, e.Offset)
				}
			}
		case n < 82:
			if err := d.Flush(context.Background()); err != nil {
				t.Fatalf("%s, Flush: %v", did, err)
			}
		default:
			d.compare(s, did)
		}
	}
	d.compareAll(fmt.Sprintf("seed %d, after all operations", b.Seed))
}

// randomSpan returns a range of at least one unit; all magnitudes of length are
// equally likely.
func randomSpan(rng *rand.Rand, size, unit int64) span {
	length := roundUp(1+rng.Int64N(1<<rng.IntN(19)), unit)
	length = min(length, size)
	return span{rng.Int64N((size-length)/unit+1) * unit, length}
}

// firstNonZero returns the index of the first byte that is not 0, or -1.
func firstNonZero(p []byte) int {
	if bytes.Count(p, []byte{0}) == len(p) {
		return -1
	}
	for i, c := range p {
		if c != 0 {
			return i
		}
	}
	return -1
}

// concurrentNeighbours gives each goroutine stripes of its own, small enough to
// share blocks with the others'. A finished write must be seen by the next read.
func concurrentNeighbours(t testing.TB, b *bench) {
	d := b.open(t, b.usual())
	const writers, rounds = 8, 25 // the last round is a write
	stripe := max(d.unit, 100)
	ctx := context.Background()
	parallel(t, writers, func(writer int) error {
		p, got := make([]byte, stripe), make([]byte, stripe)
		for round := range rounds {
			for turn := range 4 {
				off := int64(turn*writers+writer) % (int64(len(d.model)) / stripe) * stripe
				fillWith(p, byte(1+writer*rounds+round))
				if round%4 == 3 {
					clear(p)
					if err := d.PunchHole(ctx, off, stripe, 0); err != nil {
						return fmt.Errorf("PunchHole of %d bytes at %d: %w", stripe, off, err)
					}
				} else if err := d.WriteAt(ctx, p, off, 0); err != nil {
					return fmt.Errorf("WriteAt of %d bytes at %d: %w", stripe, off, err)
				}
				if err := d.ReadAt(ctx, got, off); err != nil {
					return fmt.Errorf("ReadAt of %d bytes at %d: %w", stripe, off, err)
				}
				if !bytes.Equal(got, p) {
					at := firstDifference(got, p)
					return fmt.Errorf("byte %d reads as %#02x right after %#02x was stored there, while neighbours were written",
						off+int64(at), got[at], p[at])
				}
			}
		}
		return nil
	})
	// What was stored last has to be there when all is quiet, too.
	for writer := range writers {
		for turn := range 4 {
			off := int64(turn*writers+writer) % (int64(len(d.model)) / stripe) * stripe
			fillWith(d.model[off:off+stripe], byte(writer*rounds+rounds))
		}
	}
	d.compareAll("after concurrent writes side by side")
}

// neighboursOfASmallWrite writes a few bytes in the middle of block after block, again
// and again, while others read the bytes on either side: first in holes, then in data.
func neighboursOfASmallWrite(t testing.TB, b *bench) {
	d := b.open(t, b.usual())
	block := int64(max(d.info.MinBlock, 4096))
	blocks := min(int64(len(d.model))/block, 16)
	for _, ground := range []string{"a hole", "data"} {
		for off := int64(0); off < blocks*block; off += block {
			d.writeBesideReaders(span{off, block}, span{off + block/2 - 50, 100}, ground)
			if t.Failed() {
				return
			}
		}
		d.compareAll("after small writes in " + ground)
		d.fill()
	}
}

// writeBesideReaders writes to small, a part of block, while two readers compare what
// is on either side of it.
func (d *disk) writeBesideReaders(block, small span, ground string) {
	d.t.Helper()
	const writes, reads = 4, 8 // at least
	ctx := context.Background()
	contents := [writes][]byte{}
	for i := range contents {
		contents[i] = d.noise(small.length)
	}
	written := make(chan struct{})
	reading := make(chan struct{}, 2) // one for each reader that has begun
	beside := []span{{block.off, small.off - block.off}, {small.end(), block.end() - small.end()}}
	parallel(d.t, 3, func(i int) error {
		if i == len(beside) { // the writer
			defer close(written)
			<-reading
			<-reading
			for _, p := range contents {
				if err := d.WriteAt(ctx, p, small.off, 0); err != nil {
					return fmt.Errorf("WriteAt of %d bytes at %d: %w", small.length, small.off, err)
				}
			}
			return nil
		}
		s := beside[i]
		got, want := make([]byte, s.length), d.model[s.off:s.end()]
		for n := 0; ; n++ {
			select {
			case <-written:
				if n >= reads {
					return nil
				}
			default:
			}
			err := d.ReadAt(ctx, got, s.off)
			if n == 0 {
				reading <- struct{}{}
			}
			if err != nil {
				return fmt.Errorf("ReadAt of %d bytes at %d, beside writes of %d bytes at %d: %w", s.length, s.off, small.length, small.off, err)
			}
			if !bytes.Equal(got, want) {
				at := firstDifference(got, want)
				return fmt.Errorf("byte %d reads as %#02x, want %#02x: nobody writes it, but the %d bytes at %d are being written in the same block of %s",
					s.off+int64(at), got[at], want[at], small.length, small.off, ground)
			}
		}
	})
	copy(d.model[small.off:], contents[writes-1])
}

// overlappingWrites lets several goroutines write one range while others read
// it. Every byte must at all times be one that was stored at its place.
func overlappingWrites(t testing.TB, b *bench) {
	d := b.open(t, b.usual())
	const writers, readers, rounds = 4, 2, 16
	s := span{roundUp(100, d.unit), roundUp(20000, d.unit)}
	ctx := context.Background()
	stored := func(c byte) bool { return c <= writers }
	check := func(p []byte) error {
		if err := d.ReadAt(ctx, p, s.off); err != nil {
			return fmt.Errorf("ReadAt of %d bytes at %d: %w", s.length, s.off, err)
		}
		for i, c := range p {
			if !stored(c) {
				return fmt.Errorf("byte %d reads as %#02x, which nobody stored there", s.off+int64(i), c)
			}
		}
		return nil
	}
	parallel(t, writers+readers, func(i int) error {
		p := make([]byte, s.length)
		for range rounds {
			if i >= writers {
				if err := check(p); err != nil {
					return err
				}
				continue
			}
			fillWith(p, byte(1+i))
			if err := d.WriteAt(ctx, p, s.off, 0); err != nil {
				return fmt.Errorf("WriteAt of %d bytes at %d: %w", s.length, s.off, err)
			}
		}
		return nil
	})
	p := make([]byte, s.length)
	if err := check(p); err != nil {
		t.Fatal(err)
	}
	if bytes.IndexByte(p, 0) >= 0 {
		t.Fatalf("after overlapping writes a byte of the range is still 0: a write got lost")
	}
}

func fillWith(p []byte, c byte) {
	for i := range p {
		p[i] = c
	}
}
