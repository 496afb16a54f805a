// SPDX-License-Identifier: GPL-3.0-or-later

package export

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestGateHoldsBackUntilItOpens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Gate
		if err := g.EnterN(t.Context(), 3); err != nil {
			t.Fatal(err)
		}
		g.Hold()
		entered := make(chan error, 2)
		for range 2 {
			go func() { entered <- g.Enter(t.Context()) }()
		}
		drained := make(chan error, 1)
		go func() { drained <- g.Drain(t.Context()) }()
		synctest.Wait()
		if len(entered) != 0 || len(drained) != 0 {
			t.Fatal("somebody passed the held gate, or it drained with three inside")
		}
		g.LeaveN(2)
		synctest.Wait()
		if len(drained) != 0 {
			t.Fatal("drained with one inside")
		}
		g.Leave()
		synctest.Wait()
		if len(drained) != 1 || <-drained != nil {
			t.Fatal("not drained though all have left")
		}
		if len(entered) != 0 {
			t.Fatal("somebody passed the held gate")
		}
		g.Open()
		for range 2 {
			if err := <-entered; err != nil {
				t.Fatal(err)
			}
			g.Leave()
		}
	})
}

func TestGateIsBusyWhileSomebodyIsInside(t *testing.T) {
	var g Gate
	for range 2 {
		if g.Busy() {
			t.Error("busy without anybody inside")
		}
		if err := g.Enter(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !g.Busy() {
			t.Error("not busy with somebody inside")
		}
		g.Leave()
	}
	g.Hold()
	if g.Busy() {
		t.Error("busy since it is held")
	}
}

func TestClosedGateStaysClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Gate
		g.Hold()
		waiting := make(chan error, 1)
		go func() { waiting <- g.Enter(t.Context()) }()
		synctest.Wait()
		g.Close()
		if err := <-waiting; !errors.Is(err, ErrGateClosed) {
			t.Fatalf("who waited got %v", err)
		}
		g.Open()
		g.Hold()
		g.Open()
		if err := g.Enter(t.Context()); !errors.Is(err, ErrGateClosed) {
			t.Fatalf("the closed gate opened: %v", err)
		}
		if err := g.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

func TestOpenGateClosesAtOnce(t *testing.T) {
	var g Gate
	if err := g.Enter(t.Context()); err != nil {
		t.Fatal(err)
	}
	g.Close()
	if err := g.Enter(t.Context()); !errors.Is(err, ErrGateClosed) {
		t.Fatalf("got %v", err)
	}
	g.Leave()
}

func TestContextEndsTheWaitAtTheGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Gate
		if err := g.Enter(t.Context()); err != nil {
			t.Fatal(err)
		}
		g.Hold()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		entered := make(chan error)
		go func() { entered <- g.Enter(ctx) }()
		if err := g.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("Drain: %v", err)
		}
		if err := <-entered; !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("Enter: %v", err)
		}
		g.Leave()
		if err := g.Drain(t.Context()); err != nil {
			t.Fatalf("who gave up is still counted: %v", err)
		}
	})
}

func TestOpenGateCannotBeDrained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Gate
		if err := g.Drain(t.Context()); !errors.Is(err, ErrGateOpen) {
			t.Fatalf("got %v", err)
		}
		_ = g.Enter(t.Context())
		g.Hold()
		drained := make(chan error)
		go func() { drained <- g.Drain(t.Context()) }()
		synctest.Wait()
		g.Open()
		if err := <-drained; !errors.Is(err, ErrGateOpen) {
			t.Fatalf("got %v", err)
		}
		g.Leave()
	})
}

func TestLeavingTooOftenPanics(t *testing.T) {
	var g Gate
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	g.Leave()
}

func TestNobodyIsInsideADrainedGate(t *testing.T) {
	var g Gate
	var inside atomic.Int64
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for g.EnterN(t.Context(), i+1) == nil {
				inside.Add(1)
				inside.Add(-1)
				g.LeaveN(i + 1)
			}
		})
	}
	for range 2000 {
		g.Hold()
		if err := g.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := inside.Load(); n != 0 {
			t.Fatalf("%d inside after Drain", n)
		}
		g.Open()
	}
	g.Close()
	wg.Wait()
}

func BenchmarkGate(b *testing.B) {
	var g Gate
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		_ = g.Enter(ctx)
		g.Leave()
	}
}

func BenchmarkGateParallel(b *testing.B) {
	var g Gate
	ctx := b.Context()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			_ = g.Enter(ctx)
			g.Leave()
		}
	})
}
