// SPDX-License-Identifier: GPL-3.0-or-later

package owner

// Intend records in .MIGRATED.next whom a destination is about to be prepared for:
// for each attempt anew, after its first data has been answered, so that the
// destination is no longer prepared for the id that was there before, and before
// the hold. The record stays when an attempt ends: the next one names its id as
// the one that it may replace.
func (r *Records) Intend(d Departure) error {
	r.mu.Lock()
	defer r.unlock()
	if err := r.begin(); err != nil {
		return err
	}
	d = *d.clone()
	d.Written = now()
	if why := r.cannotIntend(d); why != "" {
		return r.refuse("record migration "+d.ID.String(), why)
	}
	if _, err := r.put(r.place.Next(), d.encode()); err != nil {
		return r.end(err)
	}
	r.state.Next, r.intended = &d, true
	return nil
}

func (r *Records) cannotIntend(d Departure) string {
	if v := r.state.Verdict(); v != VerdictOwner {
		return "this copy of the disk is not the right one: " + v.String()
	}
	if d.Acknowledged {
		return "nobody can have acknowledged it yet; Unconfirmed is for those that never do"
	}
	if err := d.check(); err != nil {
		return err.Error()
	}
	return ""
}

// Depart is the commit point: .MIGRATED.next, as the last Intend wrote it, becomes
// .MIGRATED. Once it has returned nil, COMMIT may be sent, and the disk is never
// served here again.
//
// On [ErrUncertain] the gate stays held, nothing is sent and the process exits 1:
// the next start obeys what it finds. After any other error the disk is still
// here, the attempt has ended and the gate may open.
func (r *Records) Depart() error {
	r.mu.Lock()
	defer r.unlock()
	if err := r.begin(); err != nil {
		return err
	}
	if v := r.state.Verdict(); v != VerdictOwner {
		return r.refuse("give the disk away", "this copy of it is not the right one: "+v.String())
	}
	if !r.intended {
		return r.refuse("give the disk away", "no destination was recorded for this attempt; call Intend first")
	}
	d := r.state.Next
	err := r.decide(turn{
		from: r.place.Next(), to: r.place.Migrated(), point: "source-renamed",
		before: func(s State) bool { return s.Migrated == nil && s.Next != nil && s.Next.ID == d.ID },
		after:  func(s State) bool { return s.Migrated != nil && s.Migrated.ID == d.ID },
	})
	if err == nil || r.lost != nil {
		r.state.Next, r.state.Migrated, r.intended = nil, d, false
	}
	return r.end(err)
}

// Acknowledge notes in .MIGRATED that the new owner has said so.
func (r *Records) Acknowledge() error {
	r.mu.Lock()
	defer r.unlock()
	if err := r.begin(); err != nil {
		return err
	}
	switch m := r.state.Migrated; {
	case m == nil:
		return r.refuse("note an acknowledgement", "the disk was not given away")
	case m.Acknowledged:
		return nil
	}
	d := r.state.Migrated.clone()
	d.Acknowledged = true
	if _, err := r.put(r.place.Migrated(), d.encode()); err != nil {
		return r.end(err)
	}
	r.state.Migrated = d
	return nil
}

// IgnoreDeparture takes a departure back, because the operator says that the new
// owner never took over and never will: .MIGRATED becomes .MIGRATED.next again, so
// that the next migration still knows whom a destination may be prepared for.
// Without a departure there is nothing to do. If the operator is wrong, two
// servers own the disk.
func (r *Records) IgnoreDeparture() error {
	r.mu.Lock()
	defer r.unlock()
	if err := r.begin(); err != nil {
		return err
	}
	switch {
	case r.state.Incomplete != nil:
		return r.refuse("ignore .MIGRATED", "this copy of the disk is incomplete, whatever .MIGRATED says")
	case r.state.Migrated == nil:
		return nil
	}
	if err := r.fs.Rename(r.place.Migrated(), r.place.Next()); err != nil {
		return r.end(failure("rename to "+r.place.Next()+" the record", r.place.Migrated(), err))
	}
	if err := r.syncDir(); err != nil {
		return r.end(err)
	}
	r.state.Next, r.state.Migrated, r.intended = r.state.Migrated, nil, false
	return nil
}

// Forget removes the records of a disk that was given away and whose image is
// gone, durably: the last step of --unlink. .RECEIVED goes first, or a new image
// of the same name would be taken for what this one received. Without a departure
// there is nothing to do.
func (r *Records) Forget() error {
	r.mu.Lock()
	defer r.unlock()
	if err := r.begin(); err != nil {
		return err
	}
	switch {
	case r.state.Migrated == nil:
		return nil
	case r.state.Verdict() != VerdictDeparted:
		return r.refuse("forget a migration", "it has not come to its end: "+r.state.Verdict().String())
	}
	return r.end(r.forget())
}

func (r *Records) forget() error {
	if r.state.Received != nil {
		if err := r.remove(r.place.Received()); err != nil {
			return err
		}
		r.state.Received = nil
	}
	if r.state.Next != nil {
		if err := r.remove(r.place.Next()); err != nil {
			return err
		}
		r.state.Next = nil
	}
	if err := r.remove(r.place.Migrated()); err != nil {
		return err
	}
	r.state.Migrated = nil
	return nil
}
