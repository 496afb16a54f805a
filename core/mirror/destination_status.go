// SPDX-License-Identifier: GPL-3.0-or-later

package mirror

import (
	"time"

	"github.com/flexnbd/flexnbd/core/owner"
)

// DestinationState is what a destination is doing.
type DestinationState int

// The states. The package comment draws them.
const (
	DestinationWaiting   DestinationState = iota // no sender, nothing to take over
	DestinationReceiving                         // a sender is connected
	DestinationPrepared                          // a whole copy is here, its source may hand it over
	DestinationOwner                             // this server owns the disk
	DestinationUncertain                         // taken over, perhaps not durably
)

// String is one word.
func (s DestinationState) String() string {
	switch s {
	case DestinationWaiting:
		return "waiting"
	case DestinationReceiving:
		return "receiving"
	case DestinationPrepared:
		return "prepared"
	case DestinationOwner:
		return "owner"
	case DestinationUncertain:
		return "uncertain"
	}
	return "unknown"
}

// DestinationStatus is what can be said of a destination at one moment.
type DestinationStatus struct {
	State   DestinationState
	Serving bool // clients are let in

	// Sender is who is connected to send the disk; empty for nobody.
	Sender string
	// Connections is how many connections it has.
	Connections int
	// ID is the migration that the disk is prepared for, else the one that is
	// under way, else, of an owner, the one that brought the disk. Zero: none.
	ID owner.ID
	// BytesReceived is how many bytes of the disk the writes and zeroings of the
	// last attempt covered, those twice that were sent twice.
	BytesReceived int64
	// LastSender is when a sender was last connected, now if one is. Zero: not
	// since this process began.
	LastSender time.Time
}

// Status says what the destination is doing.
func (d *Destination) Status() DestinationStatus {
	d.mu.Lock()
	defer d.mu.Unlock()
	st := DestinationStatus{Serving: d.phase == phaseOwner && d.serving, LastSender: d.lastSender}
	if a := d.attempt; a != nil {
		st.BytesReceived = a.received
	}
	for s := range d.live {
		if s.cut {
			continue
		}
		st.Connections++
		st.Sender, st.ID = s.link.Peer(), s.attempt.id
		st.LastSender = time.Now()
	}
	prepared := d.prepared()
	switch {
	case d.phase == phaseOwner:
		st.State, st.ID = DestinationOwner, d.received()
	case d.phase == phaseUncertain:
		st.State = DestinationUncertain
	case !prepared.IsZero():
		st.State, st.ID = DestinationPrepared, prepared
	case st.Connections > 0:
		st.State = DestinationReceiving
	}
	return st
}
