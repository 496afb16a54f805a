// SPDX-License-Identifier: Apache-2.0

package rangelock

import (
	"context"
	"slices"
	"sync"
)

// Lock is a lock on runs of bytes. The zero value is unlocked. It may be used
// from many goroutines.
type Lock struct {
	mu sync.Mutex
	// queue holds every claim, granted or waiting, in the order of arrival.
	queue []*Claim
}

// Claim is what Lock returned and Unlock takes.
type Claim struct {
	start, end int64
	exclusive  bool
	behind     int           // earlier claims in the queue that conflict; granted at 0
	granted    chan struct{} // closed when behind drops to 0; nil if it began there
}

func (c *Claim) conflicts(with *Claim) bool {
	return (c.exclusive || with.exclusive) && c.start < with.end && with.start < c.end
}

// Lock waits for the bytes from start up to, not including, end: together with
// other shared claims, or alone. The only error is the context's, and then
// nothing is held.
func (l *Lock) Lock(ctx context.Context, start, end int64, exclusive bool) (*Claim, error) {
	c := &Claim{start: start, end: end, exclusive: exclusive}
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
		l.Unlock(c)
		return nil, ctx.Err()
	}
}

// TryLock is Lock that returns nil where Lock would wait.
func (l *Lock) TryLock(start, end int64, exclusive bool) *Claim {
	c := &Claim{start: start, end: end, exclusive: exclusive}
	l.mu.Lock()
	defer l.mu.Unlock()
	if slices.ContainsFunc(l.queue, c.conflicts) {
		return nil
	}
	l.queue = append(l.queue, c)
	return c
}

// Unlock gives a claim back and lets in those that waited for it alone.
func (l *Lock) Unlock(c *Claim) {
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
