// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"context"
	"fmt"
	"testing"

	"github.com/flexnbd/flexnbd/sdk/store"
)

func infoIsPossibleAndDoesNotChange(t testing.TB, b *bench) {
	d := b.open(t, b.usual())
	if err := d.info.Check(); err != nil {
		t.Fatalf("Info is not possible: %v", err)
	}
	same := func(when string) error {
		if now := d.Info(); now != d.info {
			return fmt.Errorf("Info changed %s: from %+v to %+v", when, d.info, now)
		}
		return nil
	}
	if !d.info.ReadOnly {
		d.fill()
		d.punch(span{0, 4 * max(d.unit, 4096)}, 0)
	}
	if err := d.Flush(context.Background()); err != nil {
		t.Fatalf("Flush: %v", err)
	}
	parallel(t, 4, func(int) error { return same("by use") })
	b.leave(d)
	another := b.open(t, b.usual())
	another.info.Identity = d.info.Identity // the one thing in which they may differ
	if another.info != d.info {
		t.Fatalf("two disks of one size say different things: %+v and %+v", d.info, another.info)
	}
}

func closeSucceeds(t testing.TB, b *bench) {
	for _, use := range []func(store.Store) error{
		func(store.Store) error { return nil },
		func(s store.Store) error { return s.Flush(context.Background()) },
	} {
		s := b.Open(t, max(b.FixedSize, b.usual()))
		if err := use(s); err != nil {
			t.Errorf("Flush: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
}
