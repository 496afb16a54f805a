// SPDX-License-Identifier: Apache-2.0

package align

import (
	"context"
	"errors"
	"testing"
)

// wait is lock for a caller that must not wait, or one that must.
func wait(t *testing.T, l *rangeLock, r run, exclusive, granted bool) *claim {
	t.Helper()
	// A claim that has to wait gives up at once.
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	c, err := l.lock(ended, r, exclusive)
	if granted && err != nil {
		t.Fatalf("%v, exclusive %v, has to wait", r, exclusive)
	}
	if !granted && !errors.Is(err, context.Canceled) {
		t.Fatalf("%v, exclusive %v, does not wait (%v)", r, exclusive, err)
	}
	return c
}

func TestRangeLockLetsInWhatDoesNotConflict(t *testing.T) {
	var l rangeLock
	shared := wait(t, &l, run{10, 20}, false, true)
	also := wait(t, &l, run{15, 25}, false, true)
	wait(t, &l, run{12, 13}, true, false)
	wait(t, &l, run{24, 30}, true, false)
	beside := wait(t, &l, run{25, 30}, true, true)
	wait(t, &l, run{20, 26}, false, false)
	l.unlock(also)
	alone := wait(t, &l, run{20, 25}, true, true)
	for _, c := range []*claim{shared, beside, alone} {
		l.unlock(c)
	}
	if len(l.queue) != 0 {
		t.Fatalf("%d claims are left behind", len(l.queue))
	}
}

// A claim that waits exclusively is not overtaken by shared ones, however many
// come; one that gives up lets those behind it in.
func TestRangeLockServesInOrder(t *testing.T) {
	var l rangeLock
	first := wait(t, &l, run{0, 10}, false, true)

	type result struct {
		claim *claim
		err   error
	}
	ask := func(ctx context.Context, exclusive bool) chan result {
		queued := len(l.queue)
		got := make(chan result, 1)
		go func() {
			c, err := l.lock(ctx, run{5, 6}, exclusive)
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
	l.unlock(first)
	w := <-writer
	select {
	case <-reader:
		t.Fatal("a shared claim got in beside an exclusive one before it")
	default:
	}
	l.unlock(w.claim)
	l.unlock((<-reader).claim)
	if len(l.queue) != 0 {
		t.Fatalf("%d claims are left behind", len(l.queue))
	}
}
