// SPDX-License-Identifier: GPL-3.0-or-later

package mirror

import (
	"math/rand/v2"
	"testing"
)

func TestCoverageAgreesWithABitForEachByte(t *testing.T) {
	const size = 200
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 1))
		c, written := newCoverage(size), [size]bool{}
		for step := range 400 {
			begin := random.Int64N(size + 1)
			end := begin + random.Int64N(min(8, size-begin)+1)
			c.add(begin, end)
			all := true
			for i := range written {
				written[i] = written[i] || int64(i) >= begin && int64(i) < end
				all = all && written[i]
			}
			if c.complete() != all {
				t.Fatalf("seed %d, step %d: complete is %v, want %v: %v", seed, step, c.complete(), all, c.spans)
			}
			checkSpans(t, c, written[:])
		}
	}
}

// checkSpans compares the spans with what was written: ascending, no two of them
// touching, and exactly those bytes.
func checkSpans(t *testing.T, c *coverage, written []bool) {
	t.Helper()
	held := make([]bool, len(written))
	last := int64(-1)
	for _, p := range c.spans {
		if p.begin <= last || p.end <= p.begin {
			t.Fatalf("spans out of order or touching: %v", c.spans)
		}
		last = p.end
		for i := p.begin; i < p.end; i++ {
			held[i] = true
		}
	}
	for i := range written {
		if held[i] != written[i] {
			t.Fatalf("byte %d: held %v, written %v: %v", i, held[i], written[i], c.spans)
		}
	}
}

func TestCoverageOfScatteredWritesForgetsRatherThanGrows(t *testing.T) {
	const size = 4 * maxSpans
	c := newCoverage(size)
	for off := int64(0); off < size; off += 2 { // one byte in two
		c.add(off, off+1)
	}
	if len(c.spans) != maxSpans {
		t.Fatalf("%d spans are kept, want %d", len(c.spans), maxSpans)
	}
	for off := int64(1); off < size; off += 2 { // the others: now all was written
		c.add(off, off+1)
	}
	for _, p := range c.spans {
		if p.begin < 0 || p.end > size {
			t.Fatalf("%v lies outside the disk", p)
		}
	}
	c.add(0, size)
	if !c.complete() {
		t.Fatal("a write of the whole disk did not make it complete")
	}
}

func TestCoverageOfAnEmptyDiskIsComplete(t *testing.T) {
	if !newCoverage(0).complete() {
		t.Fatal("nothing is missing from no bytes")
	}
}

func TestCoverageSaysHowMuchIsThere(t *testing.T) {
	c := newCoverage(100)
	c.add(0, 10)
	c.add(50, 60)
	c.add(5, 15)
	if got, want := c.String(), "25 of 100 bytes"; got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
}
