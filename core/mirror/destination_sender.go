// SPDX-License-Identifier: GPL-3.0-or-later

package mirror

import (
	"context"
	"fmt"
	"time"

	"github.com/flexnbd/flexnbd/core/failpoint"
	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/core/owner"
	"github.com/flexnbd/flexnbd/core/session"
)

// sender is one connection that sends the disk. It implements [session.Sender].
type sender struct {
	destination *Destination
	link        session.Link
	attempt     *attempt

	// Guarded by Destination.mu.
	inFlight int  // Begins without End
	cut      bool // fenced: it has been cut, or is about to be
}

// Begin implements [session.Sender]. The first data of an attempt withdraws the
// prepared record that stands in its way; what comes meanwhile on other
// connections waits, so that nothing lands before that is durable.
func (s *sender) Begin(off, length int64) error {
	d, a := s.destination, s.attempt
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := a.refusesData(); err != nil {
		return err
	}
	if a != d.attempt || d.phase != phaseWaiting {
		panic(fmt.Sprintf("mirror: migration %v is not the current one, and not over", a.id))
	}
	if !a.began {
		if err := d.firstData(a); err != nil {
			d.breaks(a, err)
			return err
		}
		a.began = true
	}
	if a.covered != nil {
		a.covered.add(off, off+length)
	}
	a.received += length
	s.inFlight++
	d.inFlight++
	return nil
}

// firstData makes the record say that what is here is no copy of anything. The
// caller holds mu.
func (d *Destination) firstData(a *attempt) error {
	if err := failpoint.Hit("destination-first-data"); err != nil {
		return err
	}
	prepared := d.prepared()
	if !prepared.IsZero() && prepared != a.replaces {
		return refused("this server is prepared for migration %v, which %v may not replace", prepared, a.id)
	}
	// Asked for without looking: it costs nothing where the record is plain and
	// durable, and makes it so after an error.
	if err := d.records.Withdraw(); err != nil {
		return fmt.Errorf("no data can be let in: %w", err)
	}
	d.entrusted = owner.ID{}
	if !prepared.IsZero() {
		d.log.Info("the first data of a new attempt is here; this server is not prepared any more", "was", prepared, "migration", a.id)
	}
	return failpoint.Hit("destination-withdrawn")
}

// End implements [session.Sender]. Any error ends the attempt, also that of a
// zeroing with FAST_ZERO that was not fast: senders do not ask for that.
func (s *sender) End(err error) {
	d := s.destination
	d.mu.Lock()
	defer d.mu.Unlock()
	if s.inFlight == 0 {
		panic("mirror: a write has ended that never began")
	}
	s.inFlight--
	d.inFlight--
	if err != nil {
		d.breaks(s.attempt, fmt.Errorf("a write failed: %w", err))
	}
}

// Flushed implements [session.Sender].
func (s *sender) Flushed(err error) {
	if err == nil {
		return
	}
	d := s.destination
	d.mu.Lock()
	defer d.mu.Unlock()
	d.breaks(s.attempt, fmt.Errorf("a flush failed: %w", err))
}

// breaks ends an attempt because of what the disk did. The caller holds mu.
func (d *Destination) breaks(a *attempt, why error) {
	a.broken = a.broken || a.ending == nil
	d.becomeOver(a, why)
}

// Prepare implements [session.Sender].
func (s *sender) Prepare(ctx context.Context) error {
	if s.attempt.covered != nil {
		return fmt.Errorf("PREPARE on a connection with the oldstyle handshake: %w", nbd.EINVAL)
	}
	return s.destination.prepare(ctx, s.attempt)
}

// Commit implements [session.Sender]: it is for connections of its own, because it
// ends all that send.
func (s *sender) Commit(context.Context) error {
	return fmt.Errorf("COMMIT on a connection that sends a disk: %w", nbd.EINVAL)
}

// Left implements [session.Sender]. It never makes this server an owner, but for an
// oldstyle sender's goodbye.
func (s *sender) Left(disc bool) {
	d, a := s.destination, s.attempt
	if a.covered != nil && disc {
		d.goodbye(a)
	}
	cut(d.leave(s, disc))
	if a.covered != nil {
		d.warnOfEntrusted(a)
	}
	d.log.Info("a sender's connection has ended", "peer", s.link.Peer(), "migration", a.id, "goodbye", disc)
}

// leave forgets a connection. If it ends the attempt, the others have to be cut: who
// has lost one can't know what became of the requests on it.
func (d *Destination) leave(s *sender, disc bool) []session.Link {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s.inFlight != 0 {
		panic(fmt.Sprintf("mirror: a connection has ended with %d writes under way", s.inFlight))
	}
	delete(d.live, s)
	d.lastSender = time.Now()
	a := s.attempt
	switch {
	case a.ending != nil:
	case !disc:
		return d.fence(errLost)
	case len(d.live) == 0:
		d.becomeOver(a, errLeft)
	}
	return nil
}

// prepare makes durable what has arrived, and then the record that says so. It
// happens once in an attempt, whatever comes of it, and no data is let in after it
// has begun.
func (d *Destination) prepare(ctx context.Context, a *attempt) error {
	err := d.seal(a)
	if err == nil {
		err = d.flush(ctx)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil {
		err = d.record(a)
	}
	if err != nil {
		d.becomeOver(a, err)
		return err
	}
	return nil
}

// seal lets no more data into an attempt, if there is none under way.
func (d *Destination) seal(a *attempt) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case a.ending != nil:
		return refused("migration %v is over: %w", a.id, a.ending)
	case a.sealed:
		return refused("migration %v: a second PREPARE", a.id)
	case !a.began:
		// Its first data is what withdraws an older record; and a source with
		// nothing to send writes its first block all the same.
		return refused("migration %v: PREPARE before any data", a.id)
	case d.inFlight > 0:
		return refused("migration %v: PREPARE while %d writes are under way", a.id, d.inFlight)
	}
	a.sealed = true
	return nil
}

// flush makes the disk durable.
func (d *Destination) flush(ctx context.Context) error {
	if err := failpoint.Hit("destination-prepare"); err != nil {
		return err
	}
	if err := d.config.Export.Flush(ctx); err != nil {
		return fmt.Errorf("the disk can't be made durable: %w", err)
	}
	return failpoint.Hit("destination-flushed")
}

// record writes the record of an attempt whose data is durable, unless it was fenced
// or has failed meanwhile. The caller holds mu: a hello that fences the attempt comes
// before, and nothing is written, or after, and finds it written.
func (d *Destination) record(a *attempt) error {
	if a.ending != nil {
		return refused("migration %v is over: %w", a.id, a.ending)
	}
	if d.inFlight != 0 || !d.prepared().IsZero() {
		panic(fmt.Sprintf("mirror: %d writes under way after PREPARE, and prepared for %v", d.inFlight, d.prepared()))
	}
	if err := d.records.Prepare(a.id); err != nil {
		return err
	}
	a.prepared = true
	d.log.Info("the disk is here and durable; waiting for its source to hand it over", "migration", a.id, "bytes", a.received)
	return failpoint.Hit("destination-prepared")
}
