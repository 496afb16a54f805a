// SPDX-License-Identifier: GPL-3.0-or-later

package mirror

import (
	"sync"
	"time"
)

// A speed is the mean of the last speedSlots slots of speedSlot each: long enough to
// be calm, short enough to follow a change of the cap while somebody looks.
const (
	speedSlot  = 250 * time.Millisecond
	speedSlots = 20
)

// speed measures bytes per second over a moving window. It may be used from many
// goroutines.
type speed struct {
	began time.Time

	mu    sync.Mutex
	slots [speedSlots]int64
	last  int64 // the newest slot's number, counted from began
	total int64
}

func newSpeed(now time.Time) *speed { return &speed{began: now} }

// add notes bytes that have been sent and answered.
func (s *speed) add(now time.Time, n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.moveTo(now)
	s.slots[s.last%speedSlots] += n
	s.total += n
}

// moveTo empties the slots that have come into the window since the last call.
func (s *speed) moveTo(now time.Time) {
	slot := int64(now.Sub(s.began) / speedSlot)
	for from := max(s.last, slot-speedSlots); from < slot; from++ {
		s.slots[(from+1)%speedSlots] = 0
	}
	s.last = max(s.last, slot)
}

// perSecond is the mean over the window, or since the beginning where that is not as
// long ago.
func (s *speed) perSecond(now time.Time) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.moveTo(now)
	var bytes int64
	for _, n := range s.slots {
		bytes += n
	}
	windowBegan := s.began.Add(time.Duration(max(0, s.last-speedSlots+1)) * speedSlot)
	span := now.Sub(windowBegan)
	if span <= 0 {
		return 0
	}
	return int64(float64(bytes) / span.Seconds())
}

// bytes is all that was added.
func (s *speed) bytes() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total
}
