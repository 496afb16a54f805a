// SPDX-License-Identifier: GPL-3.0-or-later

package mirror

import (
	"context"
	"errors"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/flexnbd/flexnbd/core/export"
	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/core/session"
	"github.com/flexnbd/flexnbd/sdk/transport"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// whenFlushed does something at the last moment before a hold of the source: it is
// seen by the drain.
func whenFlushed(o *origin, d *target, do func()) {
	hook := func() error {
		if o.source.Status().State == StateFlushing {
			do()
		}
		return nil
	}
	d.disk.flush.Store(&hook)
}

// prepares counts the PREPAREs.
func prepares(d *target) *atomic.Int64 {
	n := new(atomic.Int64)
	d.meddler.prepare = func(_ session.Link, real func() error) error { n.Add(1); return real() }
	return n
}

// What fails while the disk is held ends the attempt before anything is given away.
func TestErrorInTheDrainEndsTheAttempt(t *testing.T) {
	for name, fault := range map[string]struct {
		set, clear func(o *origin, d *target, held func() bool)
		want       error
	}{
		"the local disk": {want: syscall.EIO,
			set: func(o *origin, _ *target, held func() bool) {
				fail := func(int64) error {
					if held() {
						return syscall.EIO
					}
					return nil
				}
				o.disk.read.Store(&fail)
			},
			clear: func(o *origin, _ *target, _ func() bool) { o.disk.read.Store(nil) }},
		"the destination's": {want: nbd.ENOSPC,
			set: func(_ *origin, d *target, held func() bool) {
				fail := func(int64, []byte) error {
					if held() {
						return nbd.ENOSPC
					}
					return nil
				}
				d.disk.write.Store(&fail)
			},
			clear: func(_ *origin, d *target, _ func() bool) { d.disk.write.Store(nil) }},
	} {
		t.Run(name, func(t *testing.T) {
			o, d := pair(t, listens)
			o.source.patience.retry = 5 * time.Millisecond
			u, prepared := o.newClient(), prepares(d)
			var writes atomic.Int64
			whenFlushed(o, d, func() {
				for off := range int64(8) { // pieces of their own
					_ = u.write(off*3*64<<10, []byte{byte(writes.Add(1))})
				}
			})
			held := func() bool { return o.source.Status().State == StateHolding }
			fault.set(o, d, held)
			o.start(Order{To: d.address})
			eventually(t, "some attempts to fail", func() bool { return o.source.Status().Attempt > 5 })
			if err := o.source.Status().LastError; !errors.Is(err, fault.want) || prepared.Load() != 0 {
				t.Errorf("the attempts failed with %v, after %d PREPAREs", err, prepared.Load())
			}
			o.serves()
			d.doesNotOwn()
			fault.clear(o, d, held)
			o.migrated()
			d.equals(o)
		})
	}
}

// An attempt that has ended gives nothing away, even if the gate has not opened yet.
func TestEndedAttemptDoesNotCommit(t *testing.T) {
	for range 200 {
		var gate export.Gate
		ctx, cancel := context.WithCancelCause(t.Context())
		h := holdGate(ctx, &gate, time.Minute)
		cancel(errMeddled)
		if h.commit() {
			t.Fatal("it was committed")
		}
		h.release(errStopped)
		must(t, gate.Enter(t.Context()))
		if !errors.Is(context.Cause(h.ctx), errMeddled) {
			t.Fatalf("it ended with %v", context.Cause(h.ctx))
		}
	}
}

func TestSettledAttemptThatHasEndedIsNoSuccess(t *testing.T) {
	_, _, x, _ := stuck(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	must(t, x.through.settle(ctx))
	cancel(errMeddled)
	if err := x.through.settle(ctx); !errors.Is(err, errMeddled) {
		t.Errorf("settle returned %v", err)
	}
}

// slowReader is a reader whose Submit takes its time.
type slowReader struct {
	wire.Queue
	entered chan struct{}
	release *release
}

func (r *slowReader) Submit(requests []*wire.Request) {
	close(r.entered)
	<-r.release.c
	r.Queue.Submit(requests)
}

// A write that is about to be read back belongs to the attempt, which does not end
// before.
func TestEndWaitsForAReadThatIsAboutToBegin(t *testing.T) {
	o, _, x, release := stuck(t)
	eventually(t, "all of the disk to be on its way", func() bool { return x.bitmap.Bytes() == 0 }) // else the write is only marked
	reader := &slowReader{entered: make(chan struct{}), release: newRelease(t)}
	x.through.mu.Lock()
	reader.Queue, x.through.reader = x.through.reader, reader
	x.through.mu.Unlock()
	u := o.newClient()
	written := later(func() error { return u.write(mib+65536, []byte{7}) })
	arrived(t, reader.entered, "the read")
	release() // not before: the migration could be over
	broken := later(func() error { return o.source.Break(context.Background()) })
	pending(t, broken, "the attempt ended under a read")
	reader.release.open()
	must(t, arrived(t, broken, "Break"))
	must(t, arrived(t, written, "the write"))
	o.serves()
}

// What is sent under the hold is not charged, and so gives nothing back.
func TestCapIsNotCreditedWithWhatItWasNotCharged(t *testing.T) {
	o, d := pair(t, listens)
	u := o.newClient()
	var once atomic.Bool
	whenFlushed(o, d, func() {
		if once.CompareAndSwap(false, true) {
			_ = u.zero(0, 64<<10, 0)
		}
	})
	o.start(Order{To: d.address, MaxSpeed: 1 << 40})
	o.migrated()
	d.equals(o)
	if credit := o.source.latest().limit.credit.Load(); !once.Load() || credit != 0 {
		t.Errorf("the cap has a credit of %d bytes", credit)
	}
}

// A destination with no place for a further connection gets the disk on those it has.
func TestRefusedConnectionIsDoneWithout(t *testing.T) {
	o, d := pair(t, listens)
	var hellos atomic.Int64
	d.meddler.hello = func() error {
		if hellos.Add(1) == 2 {
			return &session.Refusal{Reply: nbd.RepErrPolicy, Text: "no more clients"}
		}
		return nil
	}
	l := o.load(2, 0, mib, 4096, time.Millisecond)
	o.start(Order{To: d.address})
	outcome := o.migrated()
	l.end(t, 2*time.Second)
	if outcome.Attempts != 1 || hellos.Load() != 3 { // the third is COMMIT's
		t.Errorf("%d hellos in %d attempts", hellos.Load(), outcome.Attempts)
	}
	d.owns()
	d.equals(o)
}

// The same refusal of an attempt that is over there is none to go on after.
func TestRefusalOfAnAttemptThatIsOverEndsIt(t *testing.T) {
	o, d := pair(t, listens)
	var hellos atomic.Int64
	d.meddler.hello = func() error {
		if hellos.Add(1) != 2 {
			return nil
		}
		o.links.cut()
		return &session.Refusal{Reply: nbd.RepErrPolicy, Text: "it is over"}
	}
	o.start(Order{To: d.address})
	if outcome := o.migrated(); outcome.Attempts != 2 {
		t.Errorf("it took %d attempts", outcome.Attempts)
	}
	d.owns()
	d.equals(o)
}

// A source that is started again connects from where it was told to, and one that goes
// on with the image, as listen does, removes neither that nor the record.
func TestResumeConnectsFromTheSameAddressAndCanKeepTheImage(t *testing.T) {
	o, d := pair(t, listens)
	bind := transport.Address{Addr: "127.0.0.1"}
	d.meddler.commit = func(link session.Link, _ func() error) error { link.Cut(); return errMeddled }
	o.start(Order{To: d.address, Bind: bind, Unlink: true})
	o.state(StateCommitting)
	o.source.Close()
	departure := *o.records.State().Migrated
	if transport.Address(departure.From) != bind || !departure.Unlink {
		t.Fatalf("the record is %+v", departure)
	}
	d.meddler.mu.Lock()
	d.meddler.commit = nil
	d.meddler.mu.Unlock()

	o.open(o.records)
	o.source.config.Unlink = nil
	o.from.Store(nil)
	departure.Unlink = false
	o.source.Resume(t.Context(), departure)
	outcome := o.waitDeparted()
	if from := o.from.Load(); from == nil || *from != bind {
		t.Errorf("it connected from %v", from)
	}
	if outcome.Leftover != nil || o.steps.String() != "leave cut" {
		t.Errorf("it did %q and left %v", o.steps.String(), outcome.Leftover)
	}
	if m := o.records.State().Migrated; m == nil || !m.Acknowledged {
		t.Errorf("the record is %+v", m)
	}
	if s := o.source.Status(); s.Attempt != 0 || s.HasControl {
		t.Errorf("status is %+v", s)
	}
}

func TestUnconfirmedCopyIsNeverTheOnlyOne(t *testing.T) {
	o, d := pair(t, foreign)
	o.start(Order{To: d.address, Unconfirmed: true})
	o.waitDeparted()
	m := o.source.latest()
	departure := *o.records.State().Migrated
	departure.Unlink = true // as an older record may have it
	if err := m.clearUp(t.Context(), departure); err == nil || o.steps.String() != "leave cut" {
		t.Errorf("it did %q and returned %v", o.steps.String(), err)
	}
	if o.records.State().Migrated == nil {
		t.Error("the record was removed")
	}
}
