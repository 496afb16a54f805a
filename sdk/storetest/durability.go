// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"context"
	"fmt"
	"testing"

	"github.com/flexnbd/flexnbd/sdk/store"
)

func flushSucceedsAndKeepsData(t testing.TB, b *bench) {
	d := b.open(t, b.usual())
	flush := func(when string) {
		t.Helper()
		if err := d.Flush(context.Background()); err != nil {
			t.Fatalf("Flush %s: %v", when, err)
		}
		d.compareAll("after a flush " + when)
	}
	flush("of a fresh disk")
	if d.info.ReadOnly {
		return
	}
	for _, s := range d.spans() {
		d.write(s, 0)
	}
	flush("after writes")
	d.punch(span{0, int64(len(d.model)) / 2 / d.unit * d.unit}, 0)
	flush("after a punch")
	flush("with nothing to do")
}

func fuaIsAccepted(t testing.TB, b *bench) {
	d := b.open(t, b.usual())
	for _, s := range d.spans() {
		p := d.noise(s.length)
		err := d.WriteAt(context.Background(), p, s.off, store.FUA)
		switch {
		case err == nil:
			copy(d.model[s.off:], p)
		case d.info.FUA == store.None && notSupported(err):
			d.write(s, 0)
		default:
			t.Fatalf("WriteAt of %d bytes at %d with FUA: %v", s.length, s.off, err)
		}
		d.compareAll(fmt.Sprintf("after a write of %d bytes at %d with FUA", s.length, s.off))
	}
	d.punch(span{0, 8 * max(d.unit, 512)}, store.FUA)
	d.compareAll("after a punch with FUA")
}
