// SPDX-License-Identifier: Apache-2.0

package fdstore

import (
	"sync"
	"sync/atomic"
)

// latch remembers the first sync that failed. A sync enters before its system
// call and leaves after it.
//
// The kernel tells of a lost write once, to one of the syncs that run at the
// time, whoever's data it was; the others succeed. So no sync's success counts
// until all that ran beside it have said how they fared: leave waits for them.
// The price is that a sync takes as long as the longest one it met, which they
// mostly do anyhow, sharing a journal.
type latch struct {
	// running is held shared by every sync under way; to get it exclusively
	// is to have waited for them.
	running sync.RWMutex
	lost    atomic.Pointer[error]
}

// enter returns the error of an earlier sync, and then leave must not be called.
func (l *latch) enter() error {
	if lost := l.lost.Load(); lost != nil {
		return *lost
	}
	l.running.RLock()
	return nil
}

// leave notes how the sync fared (nil: well), waits for those that ran beside it
// and returns the first error of all.
func (l *latch) leave(lost error) error {
	if lost != nil {
		l.lost.CompareAndSwap(nil, &lost)
	}
	l.running.RUnlock()
	l.running.Lock()
	l.running.Unlock() //nolint:staticcheck // SA2001: to have been let in is all that is wanted
	if first := l.lost.Load(); first != nil {
		return *first
	}
	return nil
}
