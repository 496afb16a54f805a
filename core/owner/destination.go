// SPDX-License-Identifier: GPL-3.0-or-later

package owner

import (
	"errors"
	"io/fs"
	"time"

	"github.com/flexnbd/flexnbd/core/failpoint"
)

// Expect makes this copy one that waits for a migration, before the socket opens:
// .INCOMPLETE is made, or kept as it is, prepared or not; then a .MIGRATED is
// removed. Whether a disk that is the right copy may be overwritten is for the
// caller to ask. A departure that nobody has acknowledged is refused: it must be
// acknowledged first, or the one disk would be nowhere.
func (r *Records) Expect() error {
	r.mu.Lock()
	defer r.unlock()
	if err := r.begin(); err != nil {
		return err
	}
	if r.state.Verdict() == VerdictDeparting {
		return r.refuse("wait for a migration", "the disk was given away and the new owner has not acknowledged it; "+
			"repeat COMMIT first")
	}
	fresh := r.state.Incomplete == nil && r.state.Migrated == nil
	err := r.end(r.expect())
	r.fresh = fresh && err == nil
	return err
}

// Retract takes back an Expect that was this Records' own and has changed nothing
// but to make .INCOMPLETE, for a server that could not start to listen: nobody can
// have sent anything yet, so the copy is worth what it was before. Otherwise it does
// nothing.
func (r *Records) Retract() error {
	r.mu.Lock()
	defer r.unlock()
	if !r.fresh {
		return nil
	}
	if err := r.begin(); err != nil {
		return err
	}
	if i := r.state.Incomplete; i != nil && !i.Touched {
		if err := r.remove(r.place.Incomplete()); err != nil {
			return r.end(err)
		}
		r.state.Incomplete = nil
	}
	r.fresh = false
	return nil
}

func (r *Records) expect() error {
	if r.state.Incomplete == nil {
		if err := r.putIncomplete(Incomplete{}); err != nil {
			return err
		}
	}
	if r.state.Migrated == nil {
		return nil
	}
	if err := r.remove(r.place.Migrated()); err != nil {
		return err
	}
	r.state.Migrated = nil
	return nil
}

// Prepare records that what this copy holds is whole and durable, which the caller
// has seen to, and that the COMMIT of this id, and no other, makes it the right
// one. A copy that is prepared for another id must be withdrawn first: its data was
// not written by this attempt alone.
func (r *Records) Prepare(id ID) error {
	r.mu.Lock()
	defer r.unlock()
	if err := r.begin(); err != nil {
		return err
	}
	if why := r.cannotPrepare(id); why != "" {
		return r.refuse("prepare for migration "+id.String(), why)
	}
	if r.state.Incomplete.Prepared == id {
		return nil
	}
	return r.end(r.putIncomplete(Incomplete{Prepared: id, Touched: true}))
}

func (r *Records) cannotPrepare(id ID) string {
	switch i := r.state.Incomplete; {
	case id.IsZero():
		return "that is no id"
	case i == nil:
		return "this copy does not wait for a migration"
	case r.state.Migrated != nil:
		return ".MIGRATED is still there; call Expect first"
	case !i.Prepared.IsZero() && i.Prepared != id:
		return "this copy is prepared for " + i.Prepared.String() + "; withdraw that first"
	}
	return ""
}

// Withdraw makes a prepared copy a plain one, and notes that the image is not what it
// was, before the first write of a new attempt. Where that is so there is nothing to
// do, and it costs nothing: call it whenever it should be so, instead of looking.
func (r *Records) Withdraw() error {
	r.mu.Lock()
	defer r.unlock()
	if err := r.begin(); err != nil {
		return err
	}
	switch i := r.state.Incomplete; {
	case i == nil:
		return r.refuse("withdraw", "this copy does not wait for a migration")
	case i.Prepared.IsZero() && i.Touched:
		return nil
	}
	return r.end(r.putIncomplete(Incomplete{Touched: true}))
}

// putIncomplete writes .INCOMPLETE. An error leaves in state what keeps most back:
// a copy that may be incomplete is, and one that may be prepared is, so that data
// lands on none before Withdraw has returned nil.
func (r *Records) putIncomplete(i Incomplete) error {
	i.Written = now()
	renamed, err := r.put(r.place.Incomplete(), i.encode())
	was := r.state.Incomplete
	if err == nil || renamed && (was == nil || was.Prepared.IsZero()) {
		r.state.Incomplete = &i
	}
	return err
}

// TakeOver makes this copy the right one: .INCOMPLETE, prepared for id, becomes
// .RECEIVED. Nobody is told, and nothing served, before it has returned nil. Once
// it has, it returns nil for the same id again.
//
// On [ErrUncertain] the process must exit without an acknowledgement. After any
// other error the copy is prepared as before.
func (r *Records) TakeOver(id ID) error {
	r.mu.Lock()
	defer r.unlock()
	if err := r.begin(); err != nil {
		return err
	}
	if r.received(id) {
		return nil
	}
	if why := r.cannotTakeOver(id); why != "" {
		return r.refuse("take over migration "+id.String(), why)
	}
	received := &Received{ID: id, Written: r.state.Incomplete.Written}
	err := r.decide(turn{
		from: r.place.Incomplete(), to: r.place.Received(), point: "destination-renamed",
		before: func(s State) bool { return s.Incomplete != nil && s.Incomplete.Prepared == id },
		after:  func(s State) bool { return s.Incomplete == nil && s.Received != nil && s.Received.ID == id },
	})
	if err == nil {
		r.state.Incomplete, r.state.Received = nil, received
	}
	return r.end(err)
}

// received says whether id has been taken over, and the disk not been given away
// since.
func (r *Records) received(id ID) bool {
	return r.state.Verdict() == VerdictOwner && r.state.Received != nil && !id.IsZero() && r.state.Received.ID == id
}

func (r *Records) cannotTakeOver(id ID) string {
	switch i := r.state.Incomplete; {
	case i == nil:
		return "this copy does not wait for a migration"
	case i.Prepared.IsZero():
		return "this copy is not prepared"
	case i.Prepared != id:
		return "this copy is prepared for " + i.Prepared.String()
	case r.state.Migrated != nil:
		return ".MIGRATED is still there; call Expect first"
	}
	return ""
}

// turn is a rename that decides who owns the disk.
type turn struct {
	from, to      string
	point         string           // the failpoint after the rename
	before, after func(State) bool // what the files say if it was not done, or was
}

// decide renames, durably. An error that is not ErrUncertain means that it was not
// done. If rename itself reports an error, the files say whether it was: over a
// network a repeated request may find its work done.
func (r *Records) decide(t turn) error {
	if err := r.fs.Rename(t.from, t.to); err != nil {
		err = failure("rename to "+t.to+" the record", t.from, err)
		found, unread := readAll(r.fs, r.place)
		switch {
		case unread != nil:
			return r.lose(errors.Join(err, unread))
		case t.after(found.state):
			// as if it had said so
		case t.before(found.state):
			return err
		default:
			return r.lose(err)
		}
	}
	for _, point := range []string{"owner-renamed", t.point} {
		if err := failpoint.Hit(point); err != nil {
			return r.lose(failure("rename the record to", t.to, err))
		}
	}
	if err := r.syncDir(); err != nil {
		return r.lose(err)
	}
	return nil
}

// remove removes a record durably.
func (r *Records) remove(path string) error {
	if err := r.fs.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return failure("remove migration record", path, err)
	}
	return r.syncDir()
}

// now is the time for a record: whole seconds are enough for people.
func now() time.Time { return time.Now().UTC().Truncate(time.Second) }
