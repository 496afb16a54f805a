// SPDX-License-Identifier: Apache-2.0

package filelane

import (
	"sync"
	"sync/atomic"

	"github.com/flexnbd/flexnbd/sdk/rangelock"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// Lane is the file lane of one disk. All methods may be called from many
// goroutines.
type Lane struct {
	ranges *rangelock.Lock
	file   atomic.Pointer[file] // nil without a loan
	stall  stall

	mu      sync.Mutex
	slow    int        // goroutines at work
	waiting []*delayed // for a goroutine, first come first served
}

// New makes a lane without a loan. ranges is the lock that calls to the backend
// take.
func New(ranges *rangelock.Lock) *Lane { return &Lane{ranges: ranges} }

// Use makes queues use lent from now on, or with nil the fallback. It does not
// end the loan that was used before, but returns it.
func (l *Lane) Use(lent *wire.Lent) (before *wire.Lent) {
	var next *file
	if lent != nil {
		next = newFile(lent)
	}
	if was := l.file.Swap(next); was != nil {
		before = was.lent
	}
	return before
}

// Drop makes queues use the fallback if lent is what they use.
func (l *Lane) Drop(lent *wire.Lent) {
	if f := l.file.Load(); f != nil && f.lent == lent {
		l.file.CompareAndSwap(f, nil)
	}
}

// InUse says whether there is a loan.
func (l *Lane) InUse() bool { return l.file.Load() != nil }

// enter returns the file, entered, or nil if there is no loan.
func (l *Lane) enter() *file {
	if f := l.file.Load(); f != nil && f.lent.Enter() {
		return f
	}
	return nil
}
