// SPDX-License-Identifier: GPL-3.0-or-later

package journal

import (
	"sync"
	"time"
)

// pace spreads requests over time, so that together they have no more than rate
// bytes a second. What was not used in the past is not caught up with.
type pace struct {
	rate int64 // 0: as fast as it goes

	mu   sync.Mutex
	next time.Time // when the next request may be sent
}

// wait waits for n bytes' turn, and returns false when stop is closed before.
func (p *pace) wait(n int64, stop <-chan struct{}) bool {
	if p.rate == 0 {
		return true
	}
	p.mu.Lock()
	now := time.Now()
	if p.next.Before(now) {
		p.next = now
	}
	turn := p.next
	p.next = p.next.Add(time.Duration(float64(n) / float64(p.rate) * float64(time.Second)))
	p.mu.Unlock()
	return pause(turn.Sub(now), stop)
}

// pause waits, and returns false when stop is closed before.
func pause(d time.Duration, stop <-chan struct{}) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-stop:
		return false
	}
}
