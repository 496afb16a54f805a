// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"context"
	"testing"
	"time"
)

// endedContextReturnsPromptly does not ask for an error: a call that was as good
// as done may succeed.
func endedContextReturnsPromptly(t testing.TB, b *bench) {
	d := b.open(t, b.usual())
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	p := d.noise(64 << 10)
	calls := map[string]func(context.Context){
		"ReadAt":  func(ctx context.Context) { _ = d.ReadAt(ctx, p, 0) },
		"Extents": func(ctx context.Context) { _, _ = d.Extents(ctx, 0, int64(len(d.model))) },
		"Flush":   func(ctx context.Context) { _ = d.Flush(ctx) },
	}
	if !d.info.ReadOnly {
		calls["WriteAt"] = func(ctx context.Context) { _ = d.WriteAt(ctx, p, 0, 0) }
		calls["PunchHole"] = func(ctx context.Context) { _ = d.PunchHole(ctx, 0, int64(len(p)), 0) }
	}
	for name, call := range calls {
		returned := make(chan struct{})
		go func() {
			defer close(returned)
			call(ended)
		}()
		select {
		case <-returned:
		case <-time.After(b.patience):
			t.Fatalf("%s with a context that has ended did not return within %v", name, b.patience)
		}
	}
	if !d.info.ReadOnly {
		d.fill()
	}
	d.compareAll("after calls that were given up")
}

func cancelledWriteDoesNotLandLater(t testing.TB, b *bench) {
	d := b.open(t, b.usual())
	for _, s := range d.spans() {
		early, cancel := context.WithCancel(context.Background())
		returned := make(chan struct{})
		p := d.noise(s.length)
		go func() {
			defer close(returned)
			_ = d.WriteAt(early, p, s.off, 0)
		}()
		cancel()
		<-returned
		d.write(s, 0)
		if err := d.Flush(context.Background()); err != nil {
			t.Fatalf("Flush: %v", err)
		}
		d.compareAll("after a write that followed a cancelled one")
	}
}
