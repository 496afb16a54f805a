// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"bytes"
	"context"
	"fmt"
	"testing"
)

func freshDiskReadsZero(t testing.TB, b *bench) {
	d := b.open(t, b.usual())
	for _, s := range d.spans() {
		d.compare(s, "on a fresh disk")
	}
}

func writesReadBack(t testing.TB, b *bench) {
	d := b.open(t, b.usual())
	for _, s := range d.spans() {
		d.write(s, 0)
		d.compare(s, "after it was written")
	}
}

func writeChangesItsRangeOnly(t testing.TB, b *bench) {
	d := b.open(t, b.usual())
	for _, ground := range []string{"holes", "data"} {
		for _, s := range d.spans() {
			d.write(s, 0)
			d.compareAll(fmt.Sprintf("after a write of %d bytes at %d on %s", s.length, s.off, ground))
		}
		d.fill()
	}
}

func zeroLengthRequestsDoNothing(t testing.TB, b *bench) {
	d := b.open(t, b.usual())
	d.fill()
	ctx := context.Background()
	for _, off := range []int64{0, d.unit, d.info.Size / 2 / d.unit * d.unit, d.info.Size} {
		if err := d.ReadAt(ctx, nil, off); err != nil {
			t.Errorf("ReadAt of nothing at %d: %v", off, err)
		}
		for _, p := range [][]byte{nil, {}} {
			if err := d.WriteAt(ctx, p, off, 0); err != nil {
				t.Errorf("WriteAt of nothing at %d: %v", off, err)
			}
		}
		if err := d.PunchHole(ctx, off, 0, 0); err != nil {
			t.Errorf("PunchHole of nothing at %d: %v", off, err)
		}
	}
	d.compareAll("after requests of length 0")
}

func everyByteOfAnOddSizeIsThere(t testing.TB, b *bench) {
	for _, size := range []int64{1, 2, 511, 512, 513, 4095, 4097, 65537, 1<<20 - 1} {
		d := b.open(t, size)
		d.fill()
		d.compareAll(fmt.Sprintf("after a disk of %d bytes was filled", d.info.Size))
		last := span{d.info.Size - d.unit, d.unit}
		d.write(last, 0)
		d.compareAll("after the last byte was written")
		d.punch(last, 0)
		d.compareAll("after the last byte was punched")
		d.extentMap(span{0, d.info.Size})
		b.leave(d)
	}
}

func diskOfNoBytesWorks(t testing.TB, b *bench) {
	d := b.open(t, 0)
	if err := d.info.Check(); err != nil {
		t.Errorf("Info is not possible: %v", err)
	}
	ctx := context.Background()
	for name, err := range map[string]error{
		"ReadAt":    d.ReadAt(ctx, nil, 0),
		"WriteAt":   d.WriteAt(ctx, nil, 0, 0),
		"PunchHole": d.PunchHole(ctx, 0, 0, 0),
		"Flush":     d.Flush(ctx),
	} {
		if err != nil {
			t.Errorf("%s on a disk of 0 bytes: %v", name, err)
		}
	}
}

func largeRequestsPassWhole(t testing.TB, b *bench) {
	d := b.open(t, sizeLarge)
	whole := span{d.unit, int64(len(d.model)) - 2*d.unit}
	whole.length = min(whole.length, roundUp(33<<20+1, d.unit))
	d.write(whole, 0)
	d.compare(whole, fmt.Sprintf("after one write of %d bytes", whole.length))
	d.punch(whole, 0)
	d.compareAll(fmt.Sprintf("after one punch of %d bytes", whole.length))
}

func unalignedRequestsAreHandled(t testing.TB, b *bench) {
	d := b.open(t, b.usual())
	d.fill()
	block := int64(max(d.info.MinBlock, 512))
	for _, s := range []span{
		{1, 1}, {block - 1, 2}, {1, block}, {block + 1, block - 2}, {block - 1, block + 2},
		{3*block - 1, 5*block + 2}, {3, 3 * block}, {2 * block, block + 1},
	} {
		d.write(s, 0)
		d.compareAll(fmt.Sprintf("with blocks of %d, after a write of %d bytes at %d", block, s.length, s.off))
		d.punch(s, 0)
		d.compareAll(fmt.Sprintf("with blocks of %d, after a punch of %d bytes at %d", block, s.length, s.off))
		d.extents(s)
	}
}

func buffersAreNotKept(t testing.TB, b *bench) {
	d := b.open(t, b.usual())
	ctx := context.Background()
	s := span{0, 64 << 10}
	p := d.noise(s.length)
	copy(d.model, p)
	if err := d.WriteAt(ctx, p, 0, 0); err != nil {
		t.Fatalf("WriteAt: %v", err)
	}
	clear(p)
	d.write(span{s.end(), s.length}, 0)
	d.compareAll("after the buffer of a finished write was cleared")

	got := d.read(s)
	kept := bytes.Clone(got)
	d.write(s, 0)
	d.punch(span{s.end(), s.length}, 0)
	d.compareAll("after more writes")
	if !bytes.Equal(got, kept) {
		t.Fatalf("the buffer of a finished ReadAt changed at byte %d", firstDifference(got, kept))
	}
	clear(got)
	d.compareAll("after the buffer of a finished read was cleared")
}

func writeDoesNotChangeItsBuffer(t testing.TB, b *bench) {
	d := b.open(t, b.usual())
	for _, s := range d.spans() {
		p := d.noise(s.length)
		before := bytes.Clone(p)
		if err := d.WriteAt(context.Background(), p, s.off, 0); err != nil {
			t.Fatalf("WriteAt of %d bytes at %d: %v", s.length, s.off, err)
		}
		if !bytes.Equal(p, before) {
			t.Fatalf("WriteAt of %d bytes at %d changed byte %d of its buffer", s.length, s.off, firstDifference(p, before))
		}
	}
}
