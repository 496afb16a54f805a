// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/flexnbd/flexnbd/sdk/store"
)

// Factory opens a fresh disk of size bytes that reads as zeroes everywhere, or
// ends the test. The suite closes the disk when the test is over; whatever else
// there is to clear away is the factory's, with t.Cleanup. Several disks may be
// open at once.
type Factory func(t testing.TB, size int64) store.Store

// Suite is the factory and what the suite has to know about its disks.
type Suite struct {
	Open Factory

	// FixedSize, when not 0, says that Open makes every disk this many bytes
	// long, whatever it is asked for. At least 1 MiB and a multiple of
	// SizeUnit. Clauses about other sizes are left out.
	FixedSize int64

	// SizeUnit, when not 0, says that a disk's size is a multiple of it, at
	// most 64 KiB. Stores that refuse unaligned requests need at least their
	// MinBlock.
	SizeUnit int64

	// OneAtATime says that Open must not be called before the disk that it
	// opened last was closed: it always opens the same one, say.
	OneAtATime bool

	// Seed makes the random operations the same as in the run that printed
	// it. 0 takes a new one.
	Seed uint64

	// LeaveOut, when not nil, says why a clause is not to be checked; "" has it
	// checked if it applies.
	LeaveOut func(Clause) (why string)

	// Limit is how long [Suite.Check] waits for one clause; 0 stands for a
	// minute. With Run, go test's -timeout is what ends a call that hangs.
	Limit time.Duration
}

// Run checks the disks that open makes. It is short for Suite{Open: open}.Run(t).
func Run(t *testing.T, open Factory) {
	t.Helper()
	Suite{Open: open}.Run(t)
}

// Run checks every clause that applies to the suite's disks, each in a subtest.
func (s Suite) Run(t *testing.T) {
	t.Helper()
	b := newBench(t, s)
	for _, c := range clauses {
		if c.applies(b) {
			t.Run(c.name, func(t *testing.T) {
				t.Cleanup(func() { // first, so that it runs last: a disk may fail at its Close
					if t.Failed() {
						t.Logf("the contract says: %s", c.says)
					}
				})
				c.check(t, b)
			})
		}
	}
}

const (
	// leastFixed is the smallest FixedSize, in bytes: sixteen of the largest
	// blocks.
	leastFixed = 16 * store.MaxMinBlock
	// sizeLarge takes a request of more than 32 MiB, the largest that NBD
	// clients commonly send.
	sizeLarge = 34 << 20
)

// LargestDisk is the largest size that a [Factory] is asked for, in bytes, but for
// rounding up to SizeUnit. Of disks of FixedSize, no more than that is used.
const LargestDisk = sizeLarge

// usual is the size of most disks, in bytes: small, since there are many of
// them and most clauses read them whole again and again, but at least sixteen
// blocks.
func (b *bench) usual() int64 { return max(256<<10, 16*int64(b.info.MinBlock)) }

// bench is a suite on its way: what the first disk said, and the seed.
type bench struct {
	Suite
	info     store.Info
	lends    bool
	unit     int64         // every offset and length is a multiple of it
	noise    []byte        // see newNoise
	patience time.Duration // for calls that have to return promptly
}

// newBench opens one disk to learn which clauses apply.
func newBench(t testing.TB, s Suite) *bench {
	t.Helper()
	if s.FixedSize != 0 && s.FixedSize < leastFixed {
		t.Fatalf("storetest: FixedSize %d is less than the %d bytes that the suite needs", s.FixedSize, leastFixed)
	}
	if s.SizeUnit > store.MaxMinBlock {
		t.Fatalf("storetest: SizeUnit %d is more than %d", s.SizeUnit, store.MaxMinBlock)
	}
	s.SizeUnit = max(s.SizeUnit, 1)
	if s.Seed == 0 {
		s.Seed = rand.Uint64()
	}
	first := s.Open(t, max(s.FixedSize, leastFixed))
	info, lends := first.Info(), loanOf(first) != nil
	if err := first.Close(); err != nil {
		t.Fatalf("storetest: closing a disk that was just opened: %v", err)
	}
	b := &bench{Suite: s, info: info, lends: lends, unit: 1, noise: newNoise(s.Seed), patience: 10 * time.Second}
	if info.Unaligned == store.RefusesUnaligned && info.MinBlock > 1 {
		b.unit = int64(info.MinBlock)
	}
	return b
}
