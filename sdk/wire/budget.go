// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"sync"
)

// budget is a number of bytes that borrowers share, first come, first served:
// while somebody waits, nobody else is given anything, so that a borrower of
// much is not starved by borrowers of little.
//
// The zero value is an empty budget; set free before first use.
type budget struct {
	mu      sync.Mutex
	free    int
	waiting []*borrower // in the order of arrival
}

// borrower is one waiting call. granted is closed, under budget.mu, once its
// bytes have been set aside.
type borrower struct {
	n       int
	granted chan struct{}
}

// tryTake takes n bytes unless it would have to wait or to overtake.
func (b *budget) tryTake(n int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.waiting) > 0 || b.free < n {
		return false
	}
	b.free -= n
	return true
}

// take takes n bytes, waiting for its turn and for them to be free. n must not
// exceed the whole budget. The error is the context's; nothing is taken then.
func (b *budget) take(ctx context.Context, n int) error {
	if b.tryTake(n) {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	me := b.join(n)
	select {
	case <-me.granted:
		return nil
	case <-ctx.Done():
		b.leave(me)
		return ctx.Err()
	}
}

// join puts a borrower at the end of the line.
func (b *budget) join(n int) *borrower {
	me := &borrower{n: n, granted: make(chan struct{})}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiting = append(b.waiting, me)
	b.serve() // bytes may have come back since tryTake
	return me
}

// leave takes a borrower that gave up out of the line, or gives back what it
// was granted at the same moment. Either may be what those behind wait for.
func (b *budget) leave(me *borrower) {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-me.granted:
		b.free += me.n
	default:
		for i, w := range b.waiting {
			if w == me {
				b.waiting = append(b.waiting[:i], b.waiting[i+1:]...)
				break
			}
		}
	}
	b.serve()
}

// give returns n bytes.
func (b *budget) give(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free += n
	b.serve()
}

// serve grants from the head of the line for as long as it fits. The caller
// holds mu.
func (b *budget) serve() {
	for len(b.waiting) > 0 && b.waiting[0].n <= b.free {
		w := b.waiting[0]
		b.waiting[0] = nil
		b.waiting = b.waiting[1:]
		b.free -= w.n
		close(w.granted)
	}
}
