// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// longestPause is the most that lies between two attempts.
const longestPause = 5 * time.Second

// retrier repeats what failed in passing, at growing intervals.
type retrier struct {
	times int           // beyond the first attempt
	pause time.Duration // before the second attempt
	log   logger
}

// logger is what of sdk.Logger's methods is used here.
type logger interface{ Warn(msg string, args ...any) }

// do calls attempt until it succeeds, fails for good, has failed often enough, or ctx
// ends. What names the object for the log.
func (r retrier) do(ctx context.Context, what string, attempt func() error) error {
	var before error // of the last attempt that had its time
	pause := r.pause
	for n := 0; ; n++ {
		err := attempt()
		f, known := errors.AsType[*failure](err)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return gaveUp(ctx, before)
		case !known || !f.passing:
			return err
		case n == r.times && n > 0:
			return fmt.Errorf("%w (attempt %d, the last)", err, n+1)
		case n == r.times:
			return err
		}
		before = err
		r.log.Warn("a request failed and is repeated", "object", what, "reason", err, "attempt", n+1, "of", r.times+1)
		// A random part, lest all who failed together come back together.
		if !sleep(ctx, pause/2+rand.N(pause/2+1)) {
			return gaveUp(ctx, before)
		}
		pause = min(2*pause, longestPause)
	}
}

// gaveUp is the error of a ctx that has ended, with the reason why it took so long.
func gaveUp(ctx context.Context, before error) error {
	if before != nil {
		return fmt.Errorf("%w; before that: %w", context.Cause(ctx), before)
	}
	return context.Cause(ctx)
}

// sleep returns false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
