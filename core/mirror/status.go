// SPDX-License-Identifier: GPL-3.0-or-later

package mirror

import (
	"time"

	"github.com/flexnbd/flexnbd/sdk/transport"
)

// SourceState is what a migration does at the moment.
type SourceState string

// The states, as status shows them; see the package comment.
const (
	StateIdle         SourceState = "idle"
	StateConnecting   SourceState = "connecting"
	StateCopying      SourceState = "copying"
	StateConverging   SourceState = "converging"
	StateWriteThrough SourceState = "write-through"
	StateFlushing     SourceState = "flushing"
	StateHolding      SourceState = "holding"
	StatePreparing    SourceState = "preparing"
	StateDeparting    SourceState = "departing"
	StateCommitting   SourceState = "committing"
	StateRetrying     SourceState = "waiting-to-retry"
	StateDeparted     SourceState = "departed"
	StateUncertain    SourceState = "uncertain"
)

// SourceStatus is what a source can say about its migration.
type SourceStatus struct {
	State SourceState
	// Running: there is a migration, and it has not ended.
	Running bool
	// HasControl: the disk has not been given away.
	HasControl bool
	To         transport.Address // the destination

	Attempt       int // from 1; 0 after Resume, which makes none
	Pass          int
	BytesLeft     int64 // dirty; it grows while clients write
	BytesSent     int64 // of payload, in this attempt
	Speed         int64 // bytes per second, over the last five seconds
	SpeedLimit    int64 // bytes per second; 0: none
	Duration      time.Duration
	SecondsLeft   int64 // at this speed; -1: unknown
	NotConverging bool  // clients write faster than the destination takes
	PauseLast     time.Duration
	LateWrites    int64 // writes for which the destination took too long in the write-through phase
	LastError     error // of the last attempt or hold that failed
}

// Status says what the source does.
func (s *Source) Status() SourceStatus {
	m := s.latest()
	if m == nil {
		return SourceStatus{State: StateIdle, HasControl: true}
	}
	return m.status(time.Now())
}
