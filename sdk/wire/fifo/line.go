// SPDX-License-Identifier: Apache-2.0

// Package fifo divides something up among callers, first come first served: while
// somebody waits, nobody else is given anything, so that who wants much is not starved
// by those who want little.
package fifo

import (
	"context"
	"slices"
	"sync"
)

// Line is where callers wait for a part of something. Its methods may be called from
// many goroutines; the functions it was made of are called by one at a time.
type Line[T any] struct {
	take func(n int) (T, bool)
	give func(T)

	mu      sync.Mutex
	waiting []*caller[T] // in the order of arrival
}

// caller is a call of Take that waits. granted is closed, under Line.mu, once part is
// its own.
type caller[T any] struct {
	n       int
	part    T
	granted chan struct{}
}

// New makes a line. take sets a part of n apart, or says that there is none; give takes
// a part back.
func New[T any](take func(n int) (T, bool), give func(T)) *Line[T] {
	return &Line[T]{take: take, give: give}
}

// Try returns a part of n unless it would have to wait or to overtake.
func (l *Line[T]) Try(n int) (part T, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting) > 0 {
		return part, false
	}
	return l.take(n)
}

// Take returns a part of n, which must not be more than there is in all, waiting for
// its turn and for so much to be there. The error is the context's; nothing is taken
// then.
func (l *Line[T]) Take(ctx context.Context, n int) (part T, err error) {
	if part, ok := l.Try(n); ok {
		return part, nil
	}
	if err := ctx.Err(); err != nil {
		return part, err
	}
	me := l.join(n)
	select {
	case <-me.granted:
		return me.part, nil
	case <-ctx.Done():
		l.leave(me)
		return part, ctx.Err()
	}
}

// Give takes a part back.
func (l *Line[T]) Give(part T) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.give(part)
	l.serve()
}

// Do calls f while nobody takes or gives.
func (l *Line[T]) Do(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}

// join puts a caller at the end of the line.
func (l *Line[T]) join(n int) *caller[T] {
	me := &caller[T]{n: n, granted: make(chan struct{})}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting = append(l.waiting, me)
	l.serve() // something may have come back since Try
	return me
}

// leave takes a caller that gave up out of the line, or gives back what it was granted
// at the same moment. Either may be what those behind wait for.
func (l *Line[T]) leave(me *caller[T]) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-me.granted:
		l.give(me.part)
	default:
		at := slices.Index(l.waiting, me)
		l.waiting = slices.Delete(l.waiting, at, at+1)
	}
	l.serve()
}

// serve grants from the head of the line for as long as there is enough. mu is held.
func (l *Line[T]) serve() {
	for len(l.waiting) > 0 {
		first := l.waiting[0]
		part, ok := l.take(first.n)
		if !ok {
			return
		}
		first.part = part
		l.waiting[0] = nil
		l.waiting = l.waiting[1:]
		close(first.granted)
	}
}
