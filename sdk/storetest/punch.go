// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	"github.com/flexnbd/flexnbd/sdk/store"
)

func punchedRangeReadsZero(t testing.TB, b *bench) {
	d := b.open(t, b.usual())
	for flags := store.Flags(0); flags <= store.FUA|store.KeepAllocated|store.Fast; flags++ {
		d.fill()
		for _, s := range d.spans() {
			if d.punch(s, flags) {
				d.compare(s, fmt.Sprintf("after a punch of %d bytes at %d, flags %b", s.length, s.off, flags))
			}
		}
	}
}

func punchChangesItsRangeOnly(t testing.TB, b *bench) {
	d := b.open(t, b.usual())
	for _, s := range d.spans() {
		d.fill()
		d.punch(s, 0)
		d.compareAll(fmt.Sprintf("after a punch of %d bytes at %d", s.length, s.off))
		d.punch(s, 0)
		d.compareAll("after the same punch again")
	}
}

func fastPunchSucceedsOrChangesNothing(t testing.TB, b *bench) {
	d := b.open(t, b.usual())
	for _, flags := range []store.Flags{0, store.KeepAllocated, store.FUA, store.FUA | store.KeepAllocated} {
		flags |= store.Fast
		for _, s := range d.spans() {
			d.write(s, 0)
			done := d.punch(s, flags) // the model changes only if it was done
			d.compareAll(fmt.Sprintf("after a punch, flags %b, of %d bytes at %d (done: %v)", flags, s.length, s.off, done))
		}
	}
}

// keepAllocatedPunchIsHonoured cannot see the space, only that the store takes
// what it announces and that the range is as good as any other afterwards.
func keepAllocatedPunchIsHonoured(t testing.TB, b *bench) {
	d := b.open(t, b.usual())
	for _, s := range d.spans() {
		d.fill()
		d.punch(s, store.KeepAllocated)
		d.compareAll(fmt.Sprintf("after a punch of %d bytes at %d that keeps the space", s.length, s.off))
		d.write(s, 0)
		d.compareAll("after the range was written again")
	}
}

func discardChangesItsRangeOnly(t testing.TB, b *bench) {
	d := b.open(t, b.usual())
	for _, flags := range []store.Flags{0, store.Fast, store.FUA, store.KeepAllocated} {
		flags |= store.Discard
		for _, s := range d.spans() {
			d.fill()
			d.punch(s, flags)
			got := d.read(span{0, int64(len(d.model))})
			for _, beside := range []span{{0, s.off}, {s.end(), int64(len(got)) - s.end()}} {
				if !bytes.Equal(got[beside.off:beside.end()], d.model[beside.off:beside.end()]) {
					t.Fatalf("discarding %d bytes at %d, flags %b, changed a byte beside the range", s.length, s.off, flags)
				}
			}
			d.write(s, 0)
			d.compareAll(fmt.Sprintf("after a discarded range of %d bytes at %d was written again", s.length, s.off))
		}
	}
}

func discardReadsZero(t testing.TB, b *bench) {
	d := b.open(t, b.usual())
	for _, flags := range []store.Flags{0, store.Fast, store.FUA, store.KeepAllocated} {
		flags |= store.Discard
		d.fill()
		for _, s := range d.spans() {
			if d.punch(s, flags) {
				d.compare(s, fmt.Sprintf("though Info.CanDiscard is not set, after a discard of %d bytes at %d, flags %b", s.length, s.off, flags))
			}
		}
	}
}

// readOnlyDiskRefusesChanges cannot write a known content first, so it compares
// with the zeroes that a fresh disk has.
func readOnlyDiskRefusesChanges(t testing.TB, b *bench) {
	d := b.open(t, b.usual())
	ctx := context.Background()
	refused := func(what string, err error) {
		if store.Errno(err) != store.Errno(store.ErrReadOnly) {
			t.Errorf("%s on a read-only disk returned %v, want %v", what, err, store.ErrReadOnly)
		}
	}
	for _, s := range d.spans() {
		refused("WriteAt", d.WriteAt(ctx, d.noise(s.length), s.off, 0))
		for _, flags := range []store.Flags{0, store.Discard, store.KeepAllocated} {
			if flags == store.KeepAllocated && !d.info.CanKeepAllocated {
				continue // the store may refuse the flag first
			}
			refused(fmt.Sprintf("PunchHole, flags %b,", flags), d.PunchHole(ctx, s.off, s.length, flags))
		}
	}
	d.compareAll("after changes that were refused")
}
