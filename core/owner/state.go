// SPDX-License-Identifier: GPL-3.0-or-later

package owner

import "time"

// Incomplete is .INCOMPLETE: this copy of a disk is not to be served.
type Incomplete struct {
	// Prepared is the only migration whose COMMIT makes this copy the right one.
	// Zero: plain, and what the image holds may be torn.
	Prepared ID
	// Touched: data of a migration may have been written to the image since
	// .INCOMPLETE was made. Filled in by [Records.Withdraw] and [Records.Prepare].
	Touched bool
	// Written is when; filled in by the package.
	Written time.Time
}

// Received is .RECEIVED: what this copy has taken over last.
type Received struct {
	ID ID
	// Written is when it was prepared: the record is only renamed since.
	Written time.Time
}

// Departure is .MIGRATED.next and .MIGRATED: a disk that may be, or has been,
// given away.
type Departure struct {
	ID ID
	// To is where the new owner listens and where it will serve: 1 to 16
	// addresses, in the order in which COMMIT tries them.
	To []Address
	// From is the local address to connect from, where the new owner has an access
	// list (mirror --bind). Zero: any, and records without it are as valid.
	From Address
	// Unlink: the image is to be removed once the new owner has acknowledged.
	Unlink bool
	// Unconfirmed: nobody at the other end knows COMMIT (flexnbd 0.x, other NBD
	// servers), so that nothing is repeated and there will be no
	// acknowledgement: .MIGRATED alone is the end.
	Unconfirmed bool
	// Acknowledged: the new owner has said that it owns the disk. Filled in by
	// [Records.Acknowledge].
	Acknowledged bool
	// Written is when; filled in by the package.
	Written time.Time
}

// State is what the records of a disk say. A record that is not there is nil.
type State struct {
	Incomplete     *Incomplete
	Received       *Received
	Next, Migrated *Departure
}

// Verdict is what a state means for who wants to serve the disk.
type Verdict int

// The verdicts, the one that goes first at the end.
const (
	// VerdictOwner: this copy is the right one, as far as the records know; also
	// when there are none.
	VerdictOwner Verdict = iota
	// VerdictDeparted: given away, and the new owner has acknowledged it, or
	// cannot ([Departure].Unconfirmed).
	VerdictDeparted
	// VerdictDeparting: given away, and the new owner may not know it yet: COMMIT
	// is to be repeated. Nobody else may do anything with the disk before.
	VerdictDeparting
	// VerdictIncomplete: the destination of a migration that has not ended.
	VerdictIncomplete
)

// String is one word.
func (v Verdict) String() string {
	switch v {
	case VerdictOwner:
		return "owner"
	case VerdictDeparted:
		return "departed"
	case VerdictDeparting:
		return "departing"
	case VerdictIncomplete:
		return "incomplete"
	}
	return "unknown"
}

// Verdict judges: .INCOMPLETE goes before every other record, and .MIGRATED before
// the rest.
func (s State) Verdict() Verdict {
	switch {
	case s.Incomplete != nil:
		return VerdictIncomplete
	case s.Migrated == nil:
		return VerdictOwner
	case s.Migrated.Acknowledged || s.Migrated.Unconfirmed:
		return VerdictDeparted
	}
	return VerdictDeparting
}

// IsEmpty says whether there are no records: the disk has never been part of a
// migration, and listen may write to it. With VerdictOwner and records the copy
// is known to be the right one, which listen does not overwrite unasked.
func (s State) IsEmpty() bool { return s == State{} }

// clone makes a State that shares nothing with s.
func (s State) clone() State {
	return State{copied(s.Incomplete), copied(s.Received), s.Next.clone(), s.Migrated.clone()}
}

func (d *Departure) clone() *Departure {
	c := copied(d)
	if c != nil {
		c.To = append([]Address(nil), d.To...)
	}
	return c
}

func copied[T any](p *T) *T {
	if p == nil {
		return nil
	}
	c := *p
	return &c
}
