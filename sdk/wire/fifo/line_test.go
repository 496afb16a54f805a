// SPDX-License-Identifier: Apache-2.0

package fifo

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

// pot is a number that is divided up.
type pot struct {
	*Line[int]
	free int
}

func newPot(n int) *pot {
	p := &pot{free: n}
	p.Line = New(func(n int) (int, bool) {
		if p.free < n {
			return 0, false
		}
		p.free -= n
		return n, true
	}, func(n int) { p.free += n })
	return p
}

func (p *pot) after(ctx context.Context, n int) error {
	_, err := p.Take(ctx, n)
	return err
}

func (p *pot) inLine() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.waiting)
}

// has says whether a caller was granted its part.
func (w *caller[T]) has() bool {
	select {
	case <-w.granted:
		return true
	default:
		return false
	}
}

func TestPartsAreGrantedInTheOrderOfArrival(t *testing.T) {
	b := newPot(10)
	if _, ok := b.Try(10); !ok {
		t.Fatal("the whole was refused")
	}
	var line []*caller[int]
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
		b.Give(step.give)
		for i, w := range line {
			if w.has() != (i < step.granted) {
				t.Fatalf("caller %d granted: %v, when the first %d should be", i, w.has(), step.granted)
			}
		}
	}
}

func TestTryDoesNotOvertake(t *testing.T) {
	b := newPot(4)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- b.after(ctx, 5) }() // more than there is
	waitFor(t, "the caller stands in line", func() bool { return b.inLine() == 1 })
	if _, ok := b.Try(1); ok {
		t.Fatal("Try overtook somebody who waits")
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	if _, ok := b.Try(4); !ok {
		t.Fatal("it is gone after the waiter gave up")
	}
}

func TestCallerThatGivesUpLetsTheNextOneThrough(t *testing.T) {
	b := newPot(4)
	ctx, cancel := context.WithCancel(t.Context())
	first, second := make(chan error, 1), make(chan error, 1)
	go func() { first <- b.after(ctx, 5) }()
	waitFor(t, "the first stands in line", func() bool { return b.inLine() == 1 })
	go func() { second <- b.after(t.Context(), 4) }()
	waitFor(t, "the second stands in line", func() bool { return b.inLine() == 2 })
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Fatalf("first: %v", err)
	}
	if err := <-second; err != nil {
		t.Fatalf("second: %v", err)
	}
}

func TestGrantThatMeetsCancellationIsGivenBack(t *testing.T) {
	b := newPot(0)
	me := b.join(3)
	b.Give(3) // granted
	b.leave(me)
	if b.free != 3 {
		t.Fatalf("%d of 3 free", b.free)
	}
}

func TestEndedContextStillTakesWhatIsFree(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b := newPot(1)
	if err := b.after(ctx, 1); err != nil {
		t.Fatal(err)
	}
	if err := b.after(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	if b.inLine() != 0 {
		t.Fatal("a caller was left in line")
	}
}

func TestNothingIsGivenTwice(t *testing.T) {
	const whole = 64
	b := newPot(whole)
	var mu sync.Mutex
	out := 0
	var wg sync.WaitGroup
	for i := range 16 {
		rnd := rand.New(rand.NewPCG(1, uint64(i)))
		wg.Go(func() {
			for range 300 {
				n := 1 + rnd.IntN(whole)
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rnd.IntN(200))*time.Microsecond)
				if b.after(ctx, n) == nil {
					mu.Lock()
					if out += n; out > whole {
						t.Errorf("%d lent out of %d", out, whole)
					}
					mu.Unlock()
					mu.Lock()
					out -= n
					mu.Unlock()
					b.Give(n)
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
