// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"sync/atomic"
	"time"
)

// pace tells whether a store's calls take so long that each is worth a goroutine of its
// own. It is a count that goes up with slow calls and down with quick ones, so that one
// call that the scheduler held up changes nothing.
type pace struct{ count atomic.Int32 }

const (
	// slowCall is what makes a call a slow one: a hundred times what a goroutine costs.
	slowCall = 100 * time.Microsecond
	slowUp   = 4
	slowFrom = 8
	slowMost = 64
)

// note takes one call in. Two goroutines at once may lose each other's: it is an
// estimate.
func (p *pace) note(took time.Duration) {
	n := p.count.Load()
	switch {
	case took >= slowCall:
		p.count.Store(min(n+slowUp, slowMost))
	case n > 0:
		p.count.Store(n - 1)
	}
}

// slow says that calls are slow at present.
func (p *pace) slow() bool { return p.count.Load() >= slowFrom }
