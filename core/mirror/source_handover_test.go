// SPDX-License-Identifier: GPL-3.0-or-later

package mirror

import (
	"errors"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/flexnbd/flexnbd/core/owner"
	"github.com/flexnbd/flexnbd/core/session"
	"github.com/flexnbd/flexnbd/sdk/transport"
)

// pair is a small disk at the source, and a destination for it.
func pair(t *testing.T, kind targetKind) (*origin, *target) {
	t.Helper()
	const size = 2*mib + 4096
	o, d := newOrigin(t, size), newTarget(t, size, kind)
	o.fill(0, mib, 1)
	return o, d
}

// The destination is prepared, and the source does not hear of it. The next attempt
// replaces what was prepared.
func TestLostReplyToPrepareEndsTheAttempt(t *testing.T) {
	o, d := pair(t, listens)
	var prepares atomic.Int64
	d.meddler.prepare = func(link session.Link, real func() error) error {
		err := real()
		if prepares.Add(1) == 1 {
			link.Cut()
			<-time.After(10 * time.Millisecond)
		}
		return err
	}
	l := o.load(2, 0, mib, 4096, time.Millisecond)
	o.start(Order{To: d.address})
	outcome := o.migrated()
	l.end(t, 2*time.Second)
	if prepares.Load() != 2 || outcome.Attempts != 2 {
		t.Errorf("%d PREPAREs in %d attempts", prepares.Load(), outcome.Attempts)
	}
	d.owns()
	d.equals(o)
}

func TestRefusedPrepareLetsClientsGoOn(t *testing.T) {
	o, d := pair(t, listens)
	var refusals atomic.Int64
	d.meddler.prepare = func(_ session.Link, real func() error) error {
		if refusals.Add(1) == 1 {
			return errMeddled
		}
		return real()
	}
	o.start(Order{To: d.address})
	eventually(t, "the attempt to fail", func() bool { return o.source.Status().LastError != nil })
	o.serves()
	o.migrated()
	d.equals(o)
}

// The destination takes longer over PREPARE than clients may be held. The gate opens
// at the deadline, whatever the destination does.
func TestSlowPrepareOpensTheGateAtTheDeadline(t *testing.T) {
	o, d := pair(t, listens)
	release := make(chan struct{})
	var prepares atomic.Int64
	d.meddler.prepare = func(_ session.Link, real func() error) error {
		if prepares.Add(1) == 1 {
			<-release
		}
		return real()
	}
	const pause = 200 * time.Millisecond
	l := o.load(2, 0, mib, 4096, time.Millisecond)
	o.start(Order{To: d.address, MaxPause: pause})
	eventually(t, "the attempt to fail", func() bool { return o.source.Status().LastError != nil })
	o.serves()
	if !strings.Contains(o.source.Status().LastError.Error(), "held for longer") {
		t.Errorf("it failed with %v", o.source.Status().LastError)
	}
	d.doesNotOwn()
	close(release)
	o.migrated()
	l.end(t, 2*time.Second)
	d.equals(o)
}

func TestErrorBeforeTheRenameLetsClientsGoOn(t *testing.T) {
	o, d := pair(t, listens)
	var failures atomic.Int64
	o.fs.hook(func() {
		o.fs.onRename = func(to string) error {
			if strings.HasSuffix(to, ".MIGRATED") && failures.Add(1) == 1 {
				return syscall.ENOSPC
			}
			return nil
		}
	})
	o.start(Order{To: d.address})
	eventually(t, "the attempt to fail", func() bool { return errors.Is(o.source.Status().LastError, syscall.ENOSPC) })
	o.serves()
	d.doesNotOwn()
	if next := o.records.State().Next; next == nil {
		t.Error("nobody knows any more whom the destination was prepared for")
	}
	o.migrated()
	d.equals(o)
}

// The rename is done, and nobody knows whether it is durable. Nothing is served or
// sent, and the process has to end.
func TestRenameThatMayNotBeDurableHoldsTheGateForEver(t *testing.T) {
	o, d := pair(t, listens)
	var commits atomic.Int64
	d.meddler.commit = func(_ session.Link, real func() error) error { commits.Add(1); return real() }
	var renamed atomic.Bool
	o.fs.hook(func() {
		o.fs.onRename = func(to string) error {
			if strings.HasSuffix(to, ".MIGRATED") {
				renamed.Store(true)
			}
			return nil
		}
		o.fs.onSync = func() error {
			if renamed.Load() {
				return syscall.EIO
			}
			return nil
		}
	})
	o.start(Order{To: d.address})
	err := arrived(t, o.source.Fatal(), "the end")
	if !errors.Is(err, owner.ErrUncertain) {
		t.Errorf("it ends with %v", err)
	}
	if _, err := o.wait(); !errors.Is(err, owner.ErrUncertain) {
		t.Errorf("Wait returned %v", err)
	}
	if err := o.source.Break(t.Context()); !errors.Is(err, ErrCompleted) {
		t.Errorf("Break returned %v", err)
	}
	u := o.newClient()
	pending(t, later(func() error { return u.write(0, []byte{1}) }), "a write was let in")
	if commits.Load() != 0 || o.steps.String() != "" {
		t.Errorf("%d COMMITs, and it did %q", commits.Load(), o.steps.String())
	}
	d.doesNotOwn()
	if s := o.source.Status(); s.State != StateUncertain || s.HasControl {
		t.Errorf("status is %+v", s)
	}
}

// COMMIT is lost on its way, refused, lost on the way back, and acknowledged in the
// end.
func TestCommitIsRepeatedUntilItIsAcknowledged(t *testing.T) {
	o, d := pair(t, listens)
	var commits atomic.Int64
	d.meddler.commit = func(link session.Link, real func() error) error {
		switch commits.Add(1) {
		case 1:
			link.Cut()
			return errMeddled
		case 2:
			return errMeddled
		case 3:
			_ = real()
			link.Cut()
			return errMeddled
		}
		return real()
	}
	o.start(Order{To: d.address, Unlink: true})
	outcome := o.waitDeparted()
	if commits.Load() != 4 {
		t.Errorf("COMMIT was sent %d times", commits.Load())
	}
	if got := o.steps.String(); got != "leave cut unlink" || outcome.Leftover != nil {
		t.Errorf("it did %q, and left %v", got, outcome.Leftover)
	}
	if !o.records.State().IsEmpty() {
		t.Errorf("with the image gone, the records say %+v", o.records.State())
	}
	d.owns()
}

func (o *origin) waitDeparted() Outcome {
	o.t.Helper()
	outcome, err := o.wait()
	must(o.t, err)
	arrived(o.t, o.source.Departed(), "the disk to be gone")
	return outcome
}

// Closed in the middle of that, the source leaves its record, and the next one goes
// on. Meanwhile the destination has moved to the address that it had named.
func TestNextStartGoesOnWithCommit(t *testing.T) {
	o, d := pair(t, listens)
	home := newTarget(t, o.export.Size(), foreign) // only its socket
	var moved atomic.Bool
	home.served.Store(&meddler{Migration: d.destination, commit: func(link session.Link, real func() error) error {
		if !moved.Load() {
			link.Cut()
			return errMeddled
		}
		return real()
	}})
	d.destination.config.Address = func() transport.Address { return home.address }
	d.meddler.commit = func(link session.Link, _ func() error) error { link.Cut(); return errMeddled }
	o.start(Order{To: d.address})
	o.state(StateCommitting)
	eventually(t, "COMMIT to fail", func() bool { return o.source.Status().LastError != nil })
	if err := o.source.Break(t.Context()); !errors.Is(err, ErrCompleted) {
		t.Errorf("Break returned %v", err)
	}
	if err := o.source.SetMaxSpeed(5); err != nil {
		t.Errorf("SetMaxSpeed returned %v", err)
	}
	o.source.Close()
	if outcome, err := o.wait(); err != nil || outcome.Kind != Migrated || !errors.Is(outcome.Leftover, errUnacknowledged) {
		t.Errorf("closed, it ends with %+v, %v", outcome, err)
	}
	departure := o.records.State().Migrated
	if departure == nil || departure.Acknowledged || len(departure.To) != 2 {
		t.Fatalf("the record is %+v", departure)
	}

	d.vanish()
	moved.Store(true)
	o.open(o.records)
	o.source.Resume(t.Context(), *departure)
	o.migratedSteps()
	d.owns()
	if v := o.records.State().Verdict(); v != owner.VerdictDeparted {
		t.Errorf("the records say %v", v)
	}
}

func (o *origin) migratedSteps() {
	o.t.Helper()
	arrived(o.t, o.source.Departed(), "the disk to be gone")
	if _, err := o.wait(); err != nil {
		o.t.Fatal(err)
	}
}

func TestRehearsalGivesNothingAway(t *testing.T) {
	o, d := pair(t, listens)
	o.source.Close()
	o.open(nil) // no records are needed
	l := o.load(2, 0, mib, 4096, time.Millisecond)
	o.start(Order{To: d.address, Rehearse: true})
	outcome, err := o.wait()
	l.end(t, 2*time.Second)
	if err != nil || outcome.Kind != Rehearsed || outcome.Bytes < mib || outcome.Pause <= 0 || outcome.Passes < 1 || outcome.Speed <= 0 {
		t.Errorf("it ended with %+v, %v", outcome, err)
	}
	o.serves()
	d.doesNotOwn()
	if s := d.records.State(); s.Incomplete == nil || !s.Incomplete.Prepared.IsZero() {
		t.Errorf("the destination's records say %+v", s)
	}
	if s := o.records.State(); !s.IsEmpty() || o.steps.String() != "" {
		t.Errorf("the records say %+v, and it did %q", s, o.steps.String())
	}
	if err := o.source.Break(t.Context()); !errors.Is(err, ErrNotMirroring) {
		t.Errorf("Break returned %v", err)
	}
}

func TestOldstyleDestinationTakesOver(t *testing.T) {
	o, d := pair(t, old)
	d.fill(mib, mib, 9) // has to be overwritten with zeroes
	l := o.load(2, 0, 2*mib, 4096, time.Millisecond)
	o.start(Order{To: d.address})
	outcome := o.migrated()
	l.end(t, 2*time.Second)
	if outcome.Bytes < o.export.Size() {
		t.Errorf("%d of %d bytes were sent", outcome.Bytes, o.export.Size())
	}
	d.owns()
	d.equals(o)
	if m := o.records.State().Migrated; !m.Unconfirmed {
		t.Errorf("the record is %+v", m)
	}
}

func TestOldstyleDestinationThatRefusesLetsClientsGoOn(t *testing.T) {
	o, d := pair(t, old)
	var fails atomic.Bool
	fails.Store(true)
	fail := func() error {
		if fails.Load() {
			return errMeddled
		}
		return nil
	}
	d.disk.flush.Store(&fail)
	o.start(Order{To: d.address})
	eventually(t, "the attempt to fail", func() bool { return o.source.Status().LastError != nil })
	o.serves()
	d.doesNotOwn()
	if m := o.records.State().Migrated; m != nil {
		t.Errorf("the record is %+v", m)
	}
}

func TestUnconfirmedDestinationGetsACopy(t *testing.T) {
	o, d := pair(t, foreign)
	d.fill(mib, mib, 9)
	o.start(Order{To: d.address, Unconfirmed: true})
	outcome := o.waitDeparted()
	if outcome.Kind != Migrated || outcome.Leftover != nil || o.steps.String() != "leave cut" {
		t.Errorf("it ended with %+v and did %q", outcome, o.steps.String())
	}
	d.equals(o)
}
