// SPDX-License-Identifier: Apache-2.0

package rangelock

import (
	"context"
	"errors"
	"testing"
)

// wait is lock for a caller that must not wait, or one that must.
func wait(t *testing.T, l *Lock, r [2]int64, exclusive, granted bool) *Claim {
	t.Helper()
	// A claim that has to wait gives up at once.
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	c, err := l.Lock(ended, r[0], r[1], exclusive)
	if granted && err != nil {
		t.Fatalf("%v, exclusive %v, has to wait", r, exclusive)
	}
	if !granted && !errors.Is(err, context.Canceled) {
		t.Fatalf("%v, exclusive %v, does not wait (%v)", r, exclusive, err)
	}
	return c
}

func TestRangeLockLetsInWhatDoesNotConflict(t *testing.T) {
	var l Lock
	shared := wait(t, &l, [2]int64{10, 20}, false, true)
	also := wait(t, &l, [2]int64{15, 25}, false, true)
	wait(t, &l, [2]int64{12, 13}, true, false)
	wait(t, &l, [2]int64{24, 30}, true, false)
	beside := wait(t, &l, [2]int64{25, 30}, true, true)
	wait(t, &l, [2]int64{20, 26}, false, false)
	l.Unlock(also)
	alone := wait(t, &l, [2]int64{20, 25}, true, true)
	for _, c := range []*Claim{shared, beside, alone} {
		l.Unlock(c)
	}
	if len(l.queue) != 0 {
		t.Fatalf("%d claims are left behind", len(l.queue))
	}
}

// A claim that waits exclusively is not overtaken by shared ones, however many
// come; one that gives up lets those behind it in.
func TestRangeLockServesInOrder(t *testing.T) {
	var l Lock
	first := wait(t, &l, [2]int64{0, 10}, false, true)

	type result struct {
		claim *Claim
		err   error
	}
	ask := func(ctx context.Context, exclusive bool) chan result {
		queued := len(l.queue)
		got := make(chan result, 1)
		go func() {
			c, err := l.Lock(ctx, 5, 6, exclusive)
			got <- result{c, err}
		}()
		for {
			l.mu.Lock()
			n := len(l.queue)
			l.mu.Unlock()
			if n > queued {
				return got
			}
		}
	}
	impatient, giveUp := context.WithCancel(context.Background())
	quitter := ask(impatient, true)
	writer := ask(context.Background(), true)
	reader := ask(context.Background(), false)

	giveUp()
	if r := <-quitter; !errors.Is(r.err, context.Canceled) {
		t.Fatalf("error is %v, want %v", r.err, context.Canceled)
	}
	l.Unlock(first)
	w := <-writer
	select {
	case <-reader:
		t.Fatal("a shared claim got in beside an exclusive one before it")
	default:
	}
	l.Unlock(w.claim)
	l.Unlock((<-reader).claim)
	if len(l.queue) != 0 {
		t.Fatalf("%d claims are left behind", len(l.queue))
	}
}
