// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// waitFor polls a state that another goroutine brings about.
func waitFor(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !cond(); time.Sleep(100 * time.Microsecond) {
		if time.Now().After(deadline) {
			t.Fatalf("gave up waiting until %s", what)
		}
	}
}

func (b *budget) line() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.waiting)
}

// has says whether a borrower was granted its bytes.
func (w *borrower) has() bool {
	select {
	case <-w.granted:
		return true
	default:
		return false
	}
}

func TestBudgetIsGrantedInTheOrderOfArrival(t *testing.T) {
	b := &budget{free: 10}
	if !b.tryTake(10) {
		t.Fatal("the whole budget was refused")
	}
	var line []*borrower
	for _, n := range []int{8, 1, 9, 2} {
		line = append(line, b.join(n))
	}
	for _, step := range []struct {
		give    int
		granted int // of those in line
	}{
		{2, 0}, // enough for the second and the fourth, which must not pass the first
		{5, 0},
		{1, 1},
		{1, 2},
		{8, 2},
		{1, 3},
		{1, 3},
		{1, 4},
	} {
		b.give(step.give)
		for i, w := range line {
			if w.has() != (i < step.granted) {
				t.Fatalf("borrower %d granted: %v, when the first %d should be", i, w.has(), step.granted)
			}
		}
	}
}

func TestTryTakeDoesNotOvertakeWaiters(t *testing.T) {
	b := &budget{free: 4}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- b.take(ctx, 5) }() // more than there is
	waitFor(t, "the borrower stands in line", func() bool { return b.line() == 1 })
	if b.tryTake(1) {
		t.Fatal("tryTake overtook a waiting borrower")
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	if !b.tryTake(4) {
		t.Fatal("the budget is gone after the waiter gave up")
	}
}

func TestBorrowerThatGivesUpLetsTheNextOneThrough(t *testing.T) {
	b := &budget{free: 4}
	ctx, cancel := context.WithCancel(t.Context())
	first, second := make(chan error, 1), make(chan error, 1)
	go func() { first <- b.take(ctx, 5) }()
	waitFor(t, "the first stands in line", func() bool { return b.line() == 1 })
	go func() { second <- b.take(t.Context(), 4) }()
	waitFor(t, "the second stands in line", func() bool { return b.line() == 2 })
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Fatalf("first: %v", err)
	}
	if err := <-second; err != nil {
		t.Fatalf("second: %v", err)
	}
}

func TestGrantThatMeetsCancellationIsGivenBack(t *testing.T) {
	b := &budget{free: 0}
	me := b.join(3)
	b.give(3) // granted
	b.leave(me)
	if b.free != 3 {
		t.Fatalf("%d of 3 free", b.free)
	}
}

func TestEndedContextStillTakesWhatIsFree(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b := &budget{free: 1}
	if err := b.take(ctx, 1); err != nil {
		t.Fatal(err)
	}
	if err := b.take(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	if b.line() != 0 {
		t.Fatal("a borrower was left in line")
	}
}

func TestBudgetIsNeverOverdrawn(t *testing.T) {
	const whole = 64
	b := &budget{free: whole}
	var mu sync.Mutex
	out := 0
	var wg sync.WaitGroup
	for i := range 16 {
		rnd := rand.New(rand.NewPCG(1, uint64(i)))
		wg.Go(func() {
			for range 300 {
				n := 1 + rnd.IntN(whole)
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rnd.IntN(200))*time.Microsecond)
				if b.take(ctx, n) == nil {
					mu.Lock()
					if out += n; out > whole {
						t.Errorf("%d lent out of %d", out, whole)
					}
					mu.Unlock()
					mu.Lock()
					out -= n
					mu.Unlock()
					b.give(n)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	if b.free != whole || len(b.waiting) != 0 {
		t.Fatalf("%d of %d free, %d in line", b.free, whole, len(b.waiting))
	}
}
