// SPDX-License-Identifier: GPL-3.0-or-later

package mirror

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/flexnbd/flexnbd/core/export"
	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/core/owner"
	"github.com/flexnbd/flexnbd/core/session"
	"github.com/flexnbd/flexnbd/sdk/memstore"
	"github.com/flexnbd/flexnbd/sdk/transport"
)

// reason checks what Start answers.
func reason(t *testing.T, err error, words, more string) {
	t.Helper()
	var r *Reason
	if !errors.As(err, &r) || r.Words != words || !strings.HasPrefix(err.Error(), words) || !strings.Contains(err.Error(), more) {
		t.Errorf("the answer is %v, want %q with %q", err, words, more)
	}
}

func TestStartSaysWhyNot(t *testing.T) {
	const size = 1 * mib
	greeting := nbd.AppendGreeting(nil, nbd.FlagFixedNewstyle)
	// A port that nobody listens at any more.
	gone := newTarget(t, size, foreign)
	gone.vanish()
	for name, test := range map[string]struct {
		to          func(t *testing.T) transport.Address
		change      func(*Order)
		words, more string
	}{
		"nobody listens":                   {func(*testing.T) transport.Address { return gone.address }, nil, WordsConnect, "refused"},
		"says nothing":                     {func(t *testing.T) transport.Address { return silent(t, nil, false) }, nil, WordsSilent, ""},
		"hangs in the handshake":           {func(t *testing.T) transport.Address { return silent(t, greeting, false) }, nil, WordsSilent, ""},
		"hangs up":                         {func(t *testing.T) transport.Address { return silent(t, nil, true) }, nil, WordsRejected, "admit"},
		"no NBD server":                    {func(t *testing.T) transport.Address { return silent(t, []byte("220 mail.example.org ESMTP"), true) }, nil, WordsRejected, "220 mail"},
		"another size":                     {func(t *testing.T) transport.Address { return newTarget(t, size+4096, listens).address }, nil, WordsSize, ""},
		"another size, oldstyle":           {func(t *testing.T) transport.Address { return newTarget(t, size+4096, old).address }, nil, WordsSize, "1052672"},
		"another size, unconfirmed":        {func(t *testing.T) transport.Address { return newTarget(t, 2*size, foreign).address }, func(o *Order) { o.Unconfirmed = true }, WordsSize, "2097152"},
		"serves its own disk":              {func(t *testing.T) transport.Address { return newTarget(t, size, serving).address }, nil, WordsRejected, ""},
		"serves its own disk, unconfirmed": {func(t *testing.T) transport.Address { return newTarget(t, size, serving).address }, func(o *Order) { o.Unconfirmed = true }, WordsRejected, ""},
		"any NBD server":                   {func(t *testing.T) transport.Address { return newTarget(t, size, foreign).address }, nil, WordsRejected, "--unconfirmed"},
		"removed unconfirmed":              {func(*testing.T) transport.Address { return gone.address }, func(o *Order) { o.Unconfirmed, o.Unlink = true, true }, WordsOrder, "only copy"},
		"removed, oldstyle":                {func(t *testing.T) transport.Address { return newTarget(t, size, old).address }, func(o *Order) { o.Unlink = true }, WordsOrder, "only copy"},
		"rehearsed, oldstyle":              {func(t *testing.T) transport.Address { return newTarget(t, size, old).address }, func(o *Order) { o.Rehearse = true }, WordsOrder, "rehearsed"},
		"a negative speed":                 {func(*testing.T) transport.Address { return gone.address }, func(o *Order) { o.MaxSpeed = -1 }, WordsOrder, ""},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOrigin(t, size)
			o.source.patience = patience{connect: time.Second, reply: time.Second, flush: time.Second, retry: time.Second}
			order := Order{To: test.to(t)}
			if test.change != nil {
				test.change(&order)
			}
			reason(t, o.source.Start(t.Context(), order), test.words, test.more)
			if s := o.source.Status(); s.State != StateIdle || s.Running || !s.HasControl {
				t.Errorf("status is %+v", s)
			}
			if err := o.source.Break(t.Context()); !errors.Is(err, ErrNotMirroring) {
				t.Errorf("Break returned %v", err)
			}
			o.serves()
		})
	}
}

// A goodbye tells flexnbd 0.x that it has the disk, whatever it has got of it. So one
// that does not get it hears none.
func TestOldstyleServerThatGetsNothingHearsNothing(t *testing.T) {
	const size = 1 * mib
	for name, talk := range map[string]struct {
		size uint64
		to   func(o *origin, t *testing.T, to transport.Address)
	}{
		"another size": {2 * size, func(o *origin, t *testing.T, to transport.Address) {
			reason(t, o.source.Start(t.Context(), Order{To: to}), WordsSize, "")
		}},
		"--unlink": {size, func(o *origin, t *testing.T, to transport.Address) {
			reason(t, o.source.Start(t.Context(), Order{To: to, Unlink: true}), WordsOrder, "only copy")
		}},
		"--rehearse": {size, func(o *origin, t *testing.T, to transport.Address) {
			reason(t, o.source.Start(t.Context(), Order{To: to, Rehearse: true}), WordsOrder, "rehearsed")
		}},
		"COMMIT at the wrong address": {size, func(o *origin, t *testing.T, to transport.Address) {
			if err := o.source.commit(t.Context(), to, transport.Address{}, owner.NewID()); !errors.Is(err, errNotAsked) {
				t.Errorf("COMMIT ended with %v", err)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			heard := make(chan []byte, 1)
			to := handling(t, func(c net.Conn) {
				_, _ = c.Write(nbd.AppendOldstyleGreeting(nil, talk.size, nbd.FlagHasFlags))
				all, _ := io.ReadAll(c)
				heard <- all
			})
			o := newOrigin(t, size)
			talk.to(o, t, to)
			if got := <-heard; len(got) > 0 {
				t.Errorf("the server heard %x", got)
			}
			o.serves()
		})
	}
}

func TestStartRefusesWhatCannotBe(t *testing.T) {
	o := newOrigin(t, 1*mib)
	d := newTarget(t, 1*mib, listens)
	d.meddler.hello = func() error { time.Sleep(50 * time.Millisecond); return nil }
	first := later(func() error { return o.source.Start(t.Context(), Order{To: d.address, MaxSpeed: 1}) })
	eventually(t, "the first to begin", func() bool { return o.source.Status().Running })
	reason(t, o.source.Start(t.Context(), Order{To: d.address}), WordsRunning, "")
	must(t, <-first)
	reason(t, o.source.Start(t.Context(), Order{To: d.address}), WordsRunning, "")
	must(t, o.source.Break(t.Context()))
	o.source.Close()
	reason(t, o.source.Start(t.Context(), Order{To: d.address}), WordsStopping, "")

	o.open(nil)
	reason(t, o.source.Start(t.Context(), Order{To: d.address}), WordsRecords, "nowhere to write")
	o.source.Close()
	o.open(o.records)
	o.source.config.Unlink = nil
	reason(t, o.source.Start(t.Context(), Order{To: d.address, Unlink: true}), WordsOrder, "files")

	small, err := export.Open(t.Context(), memstore.New(4095), export.Options{})
	must(t, err)
	s := NewSource(SourceConfig{Export: small, Records: o.records})
	reason(t, s.Start(t.Context(), Order{To: d.address}), WordsTooSmall, "4095")
	s.Close()
	must(t, small.Close(context.Background()))
}

func TestBreakInEveryState(t *testing.T) {
	const size = 2 * mib
	slow := func(o *Order) { o.MaxSpeed = 512 << 10 }
	for _, test := range []struct {
		state  SourceState
		before func(o *origin, d *target, release <-chan struct{})
		change func(*Order)
		late   func(o *origin, d *target)
	}{
		{state: StateConnecting, before: func(_ *origin, d *target, release <-chan struct{}) {
			d.meddler.hello = func() error { <-release; return nil }
		}},
		{state: StateCopying, change: slow},
		{state: StateConverging, change: func(o *Order) { o.MaxSpeed = 2 * mib; o.NoWriteThrough = true }, before: func(o *origin, _ *target, _ <-chan struct{}) {
			o.loadUntilTheEnd()
		}},
		{state: StateWriteThrough, change: func(o *Order) { o.MaxSpeed = 2 * mib }, before: func(o *origin, _ *target, _ <-chan struct{}) {
			o.loadUntilTheEnd()
		}},
		{state: StateFlushing, before: func(_ *origin, d *target, release <-chan struct{}) {
			hang := func() error { <-release; return nil }
			d.disk.flush.Store(&hang)
		}},
		{state: StateHolding, change: func(o *Order) { o.MaxPause = time.Minute }, before: func(o *origin, _ *target, release <-chan struct{}) {
			hang := func(off int64, _ []byte) error {
				if off == 8192 {
					<-release
				}
				return nil
			}
			o.disk.write.Store(&hang)
			u := o.newClient()
			go func() { _ = u.write(8192, []byte{1}) }()
		}},
		{state: StatePreparing, change: func(o *Order) { o.MaxPause = time.Minute }, before: func(_ *origin, d *target, release <-chan struct{}) {
			d.meddler.prepare = func(_ session.Link, real func() error) error { <-release; return real() }
		}},
		{state: StateRetrying, change: slow, before: func(o *origin, _ *target, _ <-chan struct{}) {
			o.source.patience.retry = time.Minute
		}, late: func(_ *origin, d *target) { d.vanish() }},
	} {
		t.Run(string(test.state), func(t *testing.T) {
			o, d := newOrigin(t, size), newTarget(t, size, listens)
			o.fill(0, size, 1)
			release := make(chan struct{})
			if test.before != nil {
				test.before(o, d, release)
			}
			order := Order{To: d.address}
			if test.change != nil {
				test.change(&order)
			}
			started := later(func() error { return o.source.Start(context.Background(), order) })
			if test.late != nil {
				must(t, <-started)
				test.late(o, d)
			}
			o.state(test.state)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			broken := o.source.Break(ctx)
			if test.late == nil {
				if err := <-started; (err != nil) != (test.state == StateConnecting) {
					t.Errorf("Start returned %v", err)
				}
			}
			must(t, broken)
			if test.state != StateHolding { // there the disk itself hangs
				o.serves()
			}
			if s := o.source.Status(); s.Running || !s.HasControl {
				t.Errorf("status is %+v", s)
			}
			close(release)
			o.serves()
			if err := o.source.Break(t.Context()); !errors.Is(err, ErrNotMirroring) {
				t.Errorf("the second Break returned %v", err)
			}
			d.doesNotOwn()
			if v := o.records.State().Verdict(); v != owner.VerdictOwner {
				t.Errorf("the records say %v", v)
			}
			// What was begun there is no obstacle to the next.
			if test.state == StateRetrying {
				return
			}
			o.start(Order{To: d.address})
			o.migrated()
			d.equals(o)
		})
	}
}

// loadUntilTheEnd writes until the disk has moved away or the test ends.
func (o *origin) loadUntilTheEnd() {
	l := o.load(4, 0, o.export.Size(), 32<<10, 2*time.Millisecond)
	o.t.Cleanup(func() { l.end(o.t, 3*time.Second) })
}

// A break that comes at the very moment of the commit point is either in time or is
// told that it is not.
func TestBreakAtTheCommitPointIsAllOrNothing(t *testing.T) {
	for range 8 {
		o, d := pair(t, listens)
		var reached atomic.Bool
		broke := make(chan error, 1)
		o.fs.hook(func() {
			o.fs.onRename = func(to string) error {
				if strings.HasSuffix(to, ".MIGRATED") && reached.CompareAndSwap(false, true) {
					go func() { broke <- o.source.Break(context.Background()) }()
				}
				return nil
			}
		})
		o.start(Order{To: d.address})
		if err := arrived(t, broke, "Break"); !errors.Is(err, ErrCompleted) {
			t.Fatalf("Break returned %v", err)
		}
		o.migrated()
		d.equals(o)
	}
}

// Break at random moments: the disk is here and served, or there.
func TestBreakAtAnyMoment(t *testing.T) {
	for i := range 30 {
		o, d := pair(t, listens)
		o.start(Order{To: d.address})
		time.Sleep(time.Duration(i) * 300 * time.Microsecond)
		switch err := o.source.Break(t.Context()); {
		case err == nil:
			o.serves()
			d.doesNotOwn()
		case errors.Is(err, ErrCompleted):
			o.migrated()
			d.owns()
			d.equals(o)
		default:
			t.Fatalf("Break returned %v", err)
		}
	}
}

// Every connection is lost at random moments, over and over.
func TestLostConnectionsOnlyCostTime(t *testing.T) {
	o, d := pair(t, listens)
	o.source.patience.retry = time.Millisecond
	l := o.load(2, 0, mib, 8192, time.Millisecond)
	o.start(Order{To: d.address, MaxSpeed: 8 * mib})
	for i := range 60 {
		time.Sleep(time.Duration(i%20) * 300 * time.Microsecond)
		o.links.cut()
	}
	must(t, o.source.SetMaxSpeed(0))
	if outcome := o.migrated(); outcome.Attempts < 3 {
		t.Errorf("it took %d attempts", outcome.Attempts)
	}
	l.end(t, 2200*time.Millisecond)
	d.owns()
	d.equals(o)
}
