// SPDX-License-Identifier: Apache-2.0

package align

import (
	"context"
	"slices"
	"sync"
)

// run is the bytes from start up to, not including, end.
type run struct{ start, end int64 }

func (r run) empty() bool { return r.start >= r.end }
func (r run) len() int64  { return r.end - r.start }

// rangeLock locks runs of bytes, first come first served. The zero value is
// unlocked.
type rangeLock struct {
	mu sync.Mutex
	// queue holds every claim, granted or waiting, in the order of arrival.
	queue []*claim
}

// claim is one lock, granted or waiting.
type claim struct {
	run
	exclusive bool
	behind    int           // earlier claims in the queue that conflict; granted at 0
	granted   chan struct{} // closed when behind drops to 0; nil if it began there
}

func (c *claim) conflicts(with *claim) bool {
	return (c.exclusive || with.exclusive) && c.start < with.end && with.start < c.end
}

// lock waits for r. The only error is the context's, and then nothing is held.
func (l *rangeLock) lock(ctx context.Context, r run, exclusive bool) (*claim, error) {
	c := &claim{run: r, exclusive: exclusive}
	l.mu.Lock()
	for _, earlier := range l.queue {
		if c.conflicts(earlier) {
			c.behind++
		}
	}
	if c.behind > 0 {
		c.granted = make(chan struct{})
	}
	l.queue = append(l.queue, c)
	l.mu.Unlock()

	if c.granted == nil {
		return c, nil
	}
	select {
	case <-c.granted:
		return c, nil
	case <-ctx.Done():
		l.unlock(c)
		return nil, ctx.Err()
	}
}

// unlock withdraws a claim, granted or not, and grants those that waited for it
// alone.
func (l *rangeLock) unlock(c *claim) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := slices.Index(l.queue, c)
	for _, later := range l.queue[at+1:] {
		if !c.conflicts(later) {
			continue
		}
		if later.behind--; later.behind == 0 {
			close(later.granted)
		}
	}
	l.queue = slices.Delete(l.queue, at, at+1)
}
