// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"bytes"
	"context"
	"encoding/binary"
	"math/rand/v2"
	"syscall"
	"testing"

	"github.com/flexnbd/flexnbd/sdk/store"
)

// disk is a store under test and what it should hold. Its methods end the test
// when a call fails, so they are for the test's own goroutine only.
type disk struct {
	store.Store
	t      testing.TB
	info   store.Info
	unit   int64
	model  []byte // of a larger disk of fixed size, the part that is used
	source []byte // what noise is cut from
	rng    *rand.Rand
	closed bool
}

// open opens a disk of size bytes, rounded up to what the suite's disks can
// have, and closes it when the test is over.
func (b *bench) open(t testing.TB, size int64) *disk {
	t.Helper()
	size = roundUp(size, max(b.SizeUnit, b.unit))
	used := size
	if b.FixedSize != 0 {
		size = b.FixedSize
		used = min(used, size)
	}
	s := b.Open(t, size)
	info := s.Info()
	d := &disk{
		Store: s, t: t, info: info, unit: b.unit,
		model:  make([]byte, used),
		source: b.noise, rng: rand.New(rand.NewPCG(b.Seed, 1)),
	}
	t.Cleanup(d.close)
	if info.Size != size {
		t.Fatalf("disk says it has %d bytes, was made with %d", info.Size, size)
	}
	return d
}

// close closes the disk, once.
func (d *disk) close() {
	if d.closed {
		return
	}
	d.closed = true
	if err := d.Close(); err != nil {
		d.t.Errorf("Close: %v", err)
	}
}

// leave closes d if no other can be opened before. A clause that goes on to another
// disk calls it.
func (b *bench) leave(d *disk) {
	if b.OneAtATime {
		d.close()
	}
}

// span is a range of a disk, in bytes.
type span struct{ off, length int64 }

func (s span) end() int64 { return s.off + s.length }

// spans are ranges worth trying: at both ends, small and large, astride the
// usual block sizes.
func (d *disk) spans() []span {
	reach := int64(len(d.model))
	var spans []span
	for _, s := range []span{
		{0, 1}, {1, 1}, {511, 2}, {512, 512}, {513, 1023}, {4095, 2}, {4096, 4096},
		{4097, 8191}, {65535, 2}, {65536, 65536}, {100003, 200001},
		{reach - 1, 1}, {reach - 4097, 4097}, {reach / 2, reach - reach/2}, {0, reach},
	} {
		s.off = min(s.off, reach-1) / d.unit * d.unit
		s.length = min(roundUp(s.length, d.unit), reach-s.off)
		spans = append(spans, s)
	}
	return spans
}

// noise returns n bytes, none of them 0.
func (d *disk) noise(n int64) []byte {
	p := make([]byte, n)
	source := d.source[d.rng.IntN(len(d.source)/2):]
	for filled := 0; filled < len(p); {
		filled += copy(p[filled:], source)
	}
	return p
}

// newNoise makes the bytes that noise cuts its pieces from.
func newNoise(seed uint64) []byte {
	p := make([]byte, 2<<20-3) // odd, so that repeats do not fall on blocks
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	_, _ = rand.NewChaCha8(key).Read(p) // never fails
	for i := range p {
		p[i] |= 1
	}
	return p
}

// write writes noise to s.
func (d *disk) write(s span, flags store.Flags) {
	d.t.Helper()
	p := d.noise(s.length)
	if err := d.WriteAt(context.Background(), p, s.off, flags); err != nil {
		d.t.Fatalf("WriteAt of %d bytes at %d, flags %b: %v", s.length, s.off, flags, err)
	}
	copy(d.model[s.off:], p)
}

// fill writes noise to the whole disk.
func (d *disk) fill() {
	d.t.Helper()
	d.write(span{0, int64(len(d.model))}, 0)
}

// punch punches s and reports whether the store did it. It may refuse only flags
// that it does not announce, and Fast.
func (d *disk) punch(s span, flags store.Flags) bool {
	d.t.Helper()
	err := d.PunchHole(context.Background(), s.off, s.length, flags)
	if err != nil {
		if notSupported(err) && d.mayRefuse(flags) {
			return false
		}
		d.t.Fatalf("PunchHole of %d bytes at %d, flags %b: %v", s.length, s.off, flags, err)
	}
	clear(d.model[s.off:s.end()])
	return true
}

func (d *disk) mayRefuse(flags store.Flags) bool {
	return flags&store.Fast != 0 ||
		flags&store.KeepAllocated != 0 && !d.info.CanKeepAllocated ||
		flags&store.FUA != 0 && d.info.FUA == store.None
}

// read returns the bytes of s. The buffer starts out as noise, so that a byte
// which the store leaves alone does not look like a zero.
func (d *disk) read(s span) []byte {
	d.t.Helper()
	p := d.noise(s.length)
	if err := d.ReadAt(context.Background(), p, s.off); err != nil {
		d.t.Fatalf("ReadAt of %d bytes at %d: %v", s.length, s.off, err)
	}
	return p
}

// compare reads s and ends the test unless it holds what the model holds.
func (d *disk) compare(s span, after string) {
	d.t.Helper()
	got := d.read(s)
	if want := d.model[s.off:s.end()]; !bytes.Equal(got, want) {
		at := firstDifference(got, want)
		d.t.Fatalf("%s, byte %d reads as %#02x, want %#02x (reading %d bytes at %d)",
			after, s.off+int64(at), got[at], want[at], s.length, s.off)
	}
}

// compareAll compares the whole disk.
func (d *disk) compareAll(after string) {
	d.t.Helper()
	d.compare(span{0, int64(len(d.model))}, after)
}

// extents asks for the extent map of s and ends the test where it breaks a rule.
func (d *disk) extents(s span) []store.Extent {
	d.t.Helper()
	extents, err := d.Extents(context.Background(), s.off, s.length)
	if err != nil {
		d.t.Fatalf("Extents of %d bytes at %d: %v", s.length, s.off, err)
	}
	if len(extents) == 0 {
		d.t.Fatalf("Extents of %d bytes at %d returned none", s.length, s.off)
	}
	next := s.off
	for i, e := range extents {
		switch {
		case e.Offset != next:
			d.t.Fatalf("Extents of %d bytes at %d: extent %d starts at %d, want %d", s.length, s.off, i, e.Offset, next)
		case e.Length <= 0:
			d.t.Fatalf("Extents of %d bytes at %d: extent %d at %d has length %d", s.length, s.off, i, e.Offset, e.Length)
		case e.Length > s.end()-e.Offset:
			d.t.Fatalf("Extents of %d bytes at %d: extent %d ends at %d, behind the range", s.length, s.off, i, e.End())
		case e.State.String() == "invalid":
			d.t.Fatalf("Extents of %d bytes at %d: extent %d has the unknown state %#x", s.length, s.off, i, e.State)
		}
		next = e.End()
	}
	return extents
}

// extentMap asks in turns until the whole of s is covered.
func (d *disk) extentMap(s span) []store.Extent {
	d.t.Helper()
	var all []store.Extent
	for s.length > 0 {
		some := d.extents(s)
		all = append(all, some...)
		end := some[len(some)-1].End() / d.unit * d.unit
		if end <= s.off {
			d.t.Fatalf("Extents of %d bytes at %d cover less than a block of %d bytes", s.length, s.off, d.unit)
		}
		s = span{end, s.end() - end}
	}
	return all
}

func notSupported(err error) bool { return store.Errno(err) == syscall.ENOTSUP }

func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }

func firstDifference(a, b []byte) int {
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return len(a)
}

// parallel runs n goroutines, waits for them and reports their errors.
func parallel(t testing.TB, n int, work func(i int) error) {
	t.Helper()
	errs := make(chan error, n)
	for i := range n {
		go func() { errs <- work(i) }()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Errorf("%v", err)
		}
	}
}
