// SPDX-License-Identifier: Apache-2.0

package filelane

import (
	"sync/atomic"
	"time"
)

// stall remembers when a write last had to wait. There is no write that does not
// wait (buffered writes have no RWF_NOWAIT), and mostly there is no need: it ends in
// the page cache. But a file system lets writers wait while it commits its journal,
// and when too many pages are dirty. For some time after that writes are left to
// goroutines, so that they hold up nobody.
type stall struct{ last atomic.Int64 } // when, in nanoseconds; 0 for never

const (
	// stallTime is how long a batch of requests never takes that all end in
	// memory: those of a connection's payload budget take a fifth of it.
	stallTime = 5 * time.Millisecond
	// stallMemory is how long a write that has waited is remembered.
	stallMemory = 100 * time.Millisecond
)

var epoch = time.Now()

// note looks at requests that began at begin and have ended now.
func (s *stall) note(begin time.Time) {
	if now := time.Now(); now.Sub(begin) > stallTime {
		s.last.Store(int64(now.Sub(epoch)))
	}
}

// recent says whether a write has waited in the stallMemory before now.
func (s *stall) recent(now time.Time) bool {
	last := s.last.Load()
	return last != 0 && now.Sub(epoch)-time.Duration(last) < stallMemory
}
