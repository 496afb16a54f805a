// SPDX-License-Identifier: GPL-3.0-or-later

package mirror

import (
	"time"

	"github.com/flexnbd/flexnbd/core/owner"
)

// OutcomeKind is how a migration ended.
type OutcomeKind int

// How a migration can end.
const (
	// Stopped by Break or Close; the disk is where it was.
	Stopped OutcomeKind = iota
	// Migrated: the disk is the destination's.
	Migrated
	// Rehearsed: all of the disk was copied and drained while it was held, then the
	// gate was opened and nothing was given away.
	Rehearsed
)

// String is one word.
func (k OutcomeKind) String() string {
	switch k {
	case Stopped:
		return "stopped"
	case Migrated:
		return "migrated"
	case Rehearsed:
		return "rehearsed"
	}
	return "unknown"
}

// Outcome is how a migration ended, and what it took.
type Outcome struct {
	Kind OutcomeKind
	ID   owner.ID // of the last attempt

	Duration time.Duration // from the order, failed attempts included
	Attempts int
	Passes   int           // of the last attempt
	Bytes    int64         // of payload, sent by the last attempt
	Speed    int64         // bytes per second of the last attempt
	Pause    time.Duration // how long clients were held in the end

	// Unconfirmed: the disk is the destination's, and that can't say so.
	Unconfirmed bool
	// Leftover is what was not done of what follows the hand-over, such as removing
	// the image. It changes nothing about who has the disk.
	Leftover error
}
