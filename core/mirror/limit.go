// SPDX-License-Identifier: GPL-3.0-or-later

package mirror

import (
	"context"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// limitStep is the longest that somebody waits for one share of the bandwidth:
// after a change of the cap, a wait that began under the old one ends this soon.
const limitStep = 50 * time.Millisecond

// limit is the cap on bytes sent, for the copy in the background and for what
// clients write meanwhile. The latter waits for half of the cap, and what it uses is
// taken off the whole, so that the background always has the other half at least:
// that is what bounds a migration's time.
//
// It may be used from many goroutines.
type limit struct {
	perSecond atomic.Int64 // 0: none
	credit    atomic.Int64 // taken by the background and not sent, since it was zeroes
	whole     rate.Limiter
	half      rate.Limiter
}

func newLimit(bytesPerSecond int64) *limit {
	l := new(limit)
	l.set(bytesPerSecond)
	return l
}

// set changes the cap; 0 means none. Those who wait learn of it within limitStep, or
// when they have their next byte, whichever is later.
func (l *limit) set(bytesPerSecond int64) {
	l.perSecond.Store(bytesPerSecond)
	if bytesPerSecond == 0 {
		return
	}
	l.whole.SetLimit(rate.Limit(bytesPerSecond))
	l.whole.SetBurst(share(bytesPerSecond))
	l.half.SetLimit(rate.Limit(bytesPerSecond) / 2)
	l.half.SetBurst(share(bytesPerSecond / 2))
}

// get returns the cap.
func (l *limit) get() int64 { return l.perSecond.Load() }

// share is what one wait is for: what comes in a limitStep, at least a byte.
func share(bytesPerSecond int64) int {
	perStep := bytesPerSecond / int64(time.Second/limitStep)
	return int(min(max(perStep, 1), 1<<30))
}

// wait waits until n bytes of the background copy may be sent.
func (l *limit) wait(ctx context.Context, n int64) error {
	if l.get() == 0 {
		return nil
	}
	if have := l.credit.Load(); have > 0 { // only the background takes
		used := min(have, n)
		l.credit.Add(-used)
		n -= used
	}
	return l.waitFor(ctx, &l.whole, n)
}

// unused gives back what wait was asked for and did not become bytes.
func (l *limit) unused(n int64) {
	if l.get() != 0 {
		l.credit.Add(n)
	}
}

// waitThrough waits until n bytes that a client has written may be sent.
func (l *limit) waitThrough(ctx context.Context, n int64) error {
	if l.get() == 0 {
		return nil
	}
	if err := l.waitFor(ctx, &l.half, n); err != nil {
		return err
	}
	l.charge(n)
	return nil
}

// tryThrough is waitThrough that returns false where that would wait.
func (l *limit) tryThrough(n int64) bool {
	if l.get() == 0 {
		return true
	}
	if n > int64(l.half.Burst()) || !l.half.AllowN(time.Now(), int(n)) {
		return false
	}
	l.charge(n)
	return true
}

// charge takes n bytes off the whole without waiting for them: the background will.
func (l *limit) charge(n int64) {
	now := time.Now()
	for n > 0 {
		step := min(n, int64(l.whole.Burst()))
		l.whole.ReserveN(now, int(step))
		n -= step
	}
}

// waitFor takes n bytes of a limiter, a share at a time. ctx has no deadline. A
// limiter refuses a share when set has made it smaller meanwhile; then the next one is.
func (l *limit) waitFor(ctx context.Context, from *rate.Limiter, n int64) error {
	for n > 0 && l.get() != 0 {
		step := min(n, int64(from.Burst()))
		switch err := from.WaitN(ctx, int(step)); {
		case err == nil:
			n -= step
		case ctx.Err() != nil:
			return ctx.Err()
		}
	}
	return nil
}
