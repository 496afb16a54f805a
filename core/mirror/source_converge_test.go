// SPDX-License-Identifier: GPL-3.0-or-later

package mirror

import (
	"bytes"
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// Clients write three times as fast as the cap lets through. Their writes are slowed
// down until the copy has caught up.
func TestWriteThroughMakesItConverge(t *testing.T) {
	const size, limit = 4 * mib, 4 * mib
	o, d := newOrigin(t, size), newTarget(t, size, listens)
	o.fill(0, size, 1)
	l := o.load(6, 0, size, 32<<10, 2*time.Millisecond)
	defer func() { l.end(t, 2200*time.Millisecond) }()
	o.start(Order{To: d.address, MaxSpeed: limit})
	o.state(StateWriteThrough)
	began := time.Now()
	o.migrated()
	// All of it dirty, at half the cap, twice over, and something for a slow machine.
	if took := time.Since(began); took > 2*size/(limit/2)*time.Second+5*time.Second {
		t.Errorf("the write-through phase took %v", took)
	}
	d.owns()
	d.equals(o)
}

func TestWithoutWriteThroughItDoesNotConverge(t *testing.T) {
	const size = 4 * mib
	o, d := newOrigin(t, size), newTarget(t, size, listens)
	o.fill(0, size, 1)
	l := o.load(6, 0, size, 32<<10, time.Millisecond)
	defer func() { l.end(t, time.Second) }()
	o.start(Order{To: d.address, MaxSpeed: 4 * mib, NoWriteThrough: true})
	eventually(t, "the source to see that it does not converge", func() bool { return o.source.Status().NotConverging })
	if s := o.source.Status(); s.State == StateWriteThrough || !s.Running {
		t.Fatalf("status is %+v", s)
	}
	must(t, o.source.Break(t.Context()))
	o.serves()
}

// Clients of the same few blocks, whose writes overlap each other and the copy, all
// through the write-through phase: what both sides have in the end is the same.
func TestOverlappingWritesEndInTheSameOrder(t *testing.T) {
	const size = 4 * mib
	o, d := newOrigin(t, size), newTarget(t, size, listens)
	o.fill(0, size, 1)
	l := o.load(8, 1000, 1000+96<<10, 24<<10, 0)
	defer func() { l.end(t, 2200*time.Millisecond) }()
	o.links.slow(time.Millisecond)
	o.start(Order{To: d.address, MaxSpeed: 4 * mib})
	o.migrated()
	d.equals(o)
}

// Both connections of an attempt end up in a destination that says nothing any more,
// while clients' writes wait for it.
func TestHungDestinationDoesNotHoldUpWrites(t *testing.T) {
	const size = 4 * mib // far more than is sent while clients wait
	o, d := newOrigin(t, size), newTarget(t, size, listens)
	o.fill(0, size, 1)
	l := o.load(4, 0, size, 32<<10, 2*time.Millisecond)
	o.start(Order{To: d.address, MaxSpeed: 4 * mib})
	o.state(StateWriteThrough)
	o.links.freeze()
	eventually(t, "a write that took too long", func() bool { return o.source.Status().LateWrites > 0 })
	l.end(t, 2200*time.Millisecond)
	must(t, o.source.Break(t.Context()))
	o.serves()
	d.doesNotOwn()
}

// The same while it copies: the attempt ends at the reply limit, the next one succeeds.
func TestHungDestinationEndsTheAttempt(t *testing.T) {
	const size = 8 * mib
	o, d := newOrigin(t, size), newTarget(t, size, listens)
	o.fill(0, size, 1)
	o.source.patience.reply = 300 * time.Millisecond
	l := o.load(2, 0, size, 32<<10, 2*time.Millisecond)
	o.start(Order{To: d.address, MaxSpeed: 16 * mib})
	eventually(t, "some data to be sent", func() bool { return o.source.Status().BytesSent > 0 })
	o.links.freeze()
	eventually(t, "the attempt to end", func() bool { return o.source.Status().LastError != nil })
	o.links.thaw()
	must(t, o.source.SetMaxSpeed(0))
	if outcome := o.migrated(); outcome.Attempts < 2 {
		t.Errorf("it took %d attempts", outcome.Attempts)
	}
	l.end(t, 2200*time.Millisecond)
	d.equals(o)
}

// A flush takes longer than any other answer may.
func TestLongFlushOfTheDestinationIsWaitedFor(t *testing.T) {
	o, d := pair(t, listens)
	o.source.patience.reply = time.Second
	var flushes atomic.Int64
	slow := func() error {
		if flushes.Add(1) == 1 {
			time.Sleep(2 * time.Second)
		}
		return nil
	}
	d.disk.flush.Store(&slow)
	o.start(Order{To: d.address})
	if outcome := o.migrated(); outcome.Attempts != 1 || flushes.Load() < 3 {
		t.Errorf("%d attempts, %d flushes", outcome.Attempts, flushes.Load())
	}
	d.equals(o)
}

func TestDestinationWithoutSpaceEndsTheAttempt(t *testing.T) {
	const size = 2 * mib
	o, d := newOrigin(t, size), newTarget(t, size, listens)
	o.fill(0, size, 1)
	full := func(int64, []byte) error { return nbd.ENOSPC }
	d.disk.write.Store(&full)
	o.start(Order{To: d.address})
	eventually(t, "the attempt to fail", func() bool { return errors.Is(o.source.Status().LastError, nbd.ENOSPC) })
	o.serves()
	d.disk.write.Store(nil)
	o.migrated()
	d.equals(o)
}

// A write that is stuck in the local disk keeps the gate from draining. Those who wait
// behind it are let go on at the deadline.
func TestHoldThatTakesTooLongLetsClientsGoOn(t *testing.T) {
	const size = 2 * mib
	o, d := newOrigin(t, size), newTarget(t, size, listens)
	o.fill(0, size, 1)
	stuck, entered := make(chan struct{}), make(chan struct{})
	var holdsUp atomic.Bool
	block := func(off int64, _ []byte) error {
		if off == 4096 && holdsUp.CompareAndSwap(true, false) {
			close(entered)
			<-stuck
		}
		return nil
	}
	o.disk.write.Store(&block)
	holdsUp.Store(true)
	slow := o.newClient()
	written := later(func() error { return slow.write(4096, []byte{1}) })
	arrived(t, entered, "the write to be stuck")

	const pause = 300 * time.Millisecond
	l := o.load(2, size/2, size, 4096, time.Millisecond)
	o.start(Order{To: d.address, MaxPause: pause})
	eventually(t, "the hold to be given up", func() bool { return errors.Is(o.source.Status().LastError, errMissed) })
	if s := o.source.Status(); s.PauseLast < pause {
		t.Errorf("after the hold: %+v", s)
	}
	o.serves()
	close(stuck)
	must(t, arrived(t, written, "the write"))
	if outcome := o.migrated(); outcome.Attempts > 2 || outcome.Pause > pause { // a busy machine may need another one
		t.Errorf("outcome %+v", outcome)
	}
	l.end(t, pause+time.Second)
	d.equals(o)
}

func TestSpeedCanBeChangedOnTheWay(t *testing.T) {
	const size = 16 * mib
	o, d := newOrigin(t, size), newTarget(t, size, listens)
	if err := o.source.SetMaxSpeed(1); !errors.Is(err, ErrNotMirroring) {
		t.Errorf("without a migration: %v", err)
	}
	o.fill(0, size, 1)
	o.start(Order{To: d.address, MaxSpeed: 2 * mib})
	began := time.Now()
	eventually(t, "some data to be sent", func() bool { return o.source.Status().BytesSent > mib/2 })
	if took := time.Since(began); took < 100*time.Millisecond {
		t.Errorf("half a MiB took %v at 2 MiB/s", took)
	}
	if s := o.source.Status(); s.SpeedLimit != 2*mib || s.BytesLeft < 10*mib || s.SecondsLeft < 1 {
		t.Errorf("status is %+v", s)
	}
	must(t, o.source.SetMaxSpeed(0))
	o.migrated()
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("without the cap it took %v", took)
	}
	d.equals(o)
}

func TestLimitKeepsHalfForTheBackground(t *testing.T) {
	const perSecond = 8 * mib
	l := newLimit(perSecond)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var through, background atomic.Int64
	ended := make(chan struct{}, 2)
	go func() {
		for l.waitThrough(ctx, 64<<10) == nil {
			through.Add(64 << 10)
		}
		ended <- struct{}{}
	}()
	go func() {
		for l.wait(ctx, 256<<10) == nil {
			background.Add(256 << 10)
		}
		ended <- struct{}{}
	}()
	began := time.Now()
	eventually(t, "the background to send 4 MiB", func() bool { return background.Load() >= 4*mib })
	took := time.Since(began)
	cancel()
	<-ended
	<-ended
	sent := float64(through.Load()+background.Load()) / took.Seconds()
	if sent > 1.25*perSecond {
		t.Errorf("%.0f bytes per second were sent", sent)
	}
	if took > 1500*time.Millisecond || through.Load() < mib {
		t.Errorf("in %v the background sent %d, clients %d", took, background.Load(), through.Load())
	}
}

func TestLimitCountsWhatWasSent(t *testing.T) {
	l := newLimit(mib)
	must(t, l.wait(t.Context(), 100))
	l.unused(60)
	began := time.Now()
	must(t, l.wait(t.Context(), 60))
	if took := time.Since(began); took > 20*time.Millisecond {
		t.Errorf("what was given back took %v", took)
	}
}

func TestSegmentsCoverThePiece(t *testing.T) {
	p := bytes.Repeat([]byte{1}, 40<<10+100)
	clear(p[4<<10 : 8<<10])
	clear(p[12<<10 : 32<<10])
	clear(p[40<<10:])
	for _, least := range []int{4 << 10, 16 << 10} {
		got := segments(nil, p, least)
		at := 0
		for i, s := range got {
			if s.start != at || s.end <= s.start || i > 0 && s.zero == got[i-1].zero {
				t.Fatalf("least %d: %v", least, got)
			}
			if s.zero && (s.end-s.start < least || !bytes.Equal(p[s.start:s.end], make([]byte, s.end-s.start))) {
				t.Fatalf("least %d: %v is not zero, or short", least, s)
			}
			at = s.end
		}
		if want := map[int]int{4 << 10: 5, 16 << 10: 3}[least]; at != len(p) || len(got) != want {
			t.Errorf("least %d: %v", least, got)
		}
	}
	if got := segments(nil, make([]byte, 100), 4<<10); len(got) != 1 || !got[0].zero {
		t.Errorf("a short piece of zeroes: %v", got)
	}
}

func TestSpeedIsThatOfTheWindow(t *testing.T) {
	now := time.Now()
	s := newSpeed(now)
	s.add(now, 1000)
	if got := s.perSecond(now.Add(100 * time.Millisecond)); got != 10000 {
		t.Errorf("after 100 ms: %d", got)
	}
	for range 40 {
		now = now.Add(speedSlot)
		s.add(now, 500)
	}
	if got := s.perSecond(now.Add(speedSlot)); got < 1900 || got > 2100 {
		t.Errorf("with 500 in each slot: %d", got)
	}
	if got := s.perSecond(now.Add(time.Hour)); got != 0 || s.bytes() != 21000 {
		t.Errorf("an hour later: %d, in all %d", got, s.bytes())
	}
}
