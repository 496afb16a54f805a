// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"testing"

	"github.com/flexnbd/flexnbd/sdk/store"
)

// patchwork makes a disk of data, punched and untouched ranges.
func (b *bench) patchwork(t testing.TB) *disk {
	t.Helper()
	d := b.open(t, b.usual())
	if d.info.ReadOnly {
		return d
	}
	step := int64(len(d.model)) / 16 / d.unit * d.unit
	for i := int64(0); i+4 < 16; i += 4 {
		d.write(span{i * step, 2 * step}, 0)
		d.punch(span{i*step + step/2/d.unit*d.unit, step}, 0)
	}
	return d
}

func extentsAreContiguous(t testing.TB, b *bench) {
	fresh := func(t testing.TB) *disk { return b.open(t, b.usual()) }
	for _, open := range []func(testing.TB) *disk{fresh, b.patchwork} {
		d := open(t)
		for _, s := range d.spans() {
			d.extents(s)
		}
		b.leave(d)
	}
}

func extentsCoverTheDisk(t testing.TB, b *bench) {
	d := b.patchwork(t)
	for _, s := range d.spans() {
		d.extentMap(s)
	}
}

func zeroExtentsReadAsZero(t testing.TB, b *bench) {
	d := b.patchwork(t)
	check := func(after string) {
		t.Helper()
		whole := span{0, int64(len(d.model))}
		content := d.read(whole)
		for _, s := range append(d.spans(), whole) {
			for _, e := range d.extentMap(s) {
				if e.State&store.Zero == 0 {
					continue
				}
				if at := firstNonZero(content[e.Offset:e.End()]); at >= 0 {
					t.Fatalf("%s, the extent of %d bytes at %d says zero, but byte %d does not read as zero",
						after, e.Length, e.Offset, e.Offset+int64(at))
				}
			}
		}
	}
	check("after writes and punches")
	for _, s := range d.spans() {
		d.write(s, 0)
		check("after another write")
	}
	for _, flags := range []store.Flags{store.Discard, store.KeepAllocated, store.Fast} {
		d.fill()
		d.punch(span{0, int64(len(d.model)) / 2 / d.unit * d.unit}, flags)
		check("after a punch with flags")
	}
}

func extentsAreAllData(t testing.TB, b *bench) {
	d := b.patchwork(t)
	for _, s := range d.spans() {
		for _, e := range d.extentMap(s) {
			if e.State != store.Data {
				t.Fatalf("Extents says %q at %d, though Info.CanExtents is not set", e.State, e.Offset)
			}
		}
	}
}
