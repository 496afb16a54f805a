// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"
)

// Result says how one clause ended: it holds where Err is nil and Skipped is empty.
type Result struct {
	Clause
	Err     error  // what was wrong, in the words that go test would print
	Skipped string // why the clause was not checked
	Took    time.Duration
}

// String is a line for people; a failure takes several.
func (r Result) String() string {
	switch took := r.Took.Round(time.Millisecond); {
	case r.Skipped != "":
		return fmt.Sprintf("left out  %s: %s", r.Name, r.Skipped)
	case r.Err != nil:
		return fmt.Sprintf("FAILED    %s (%v): %v\nthe contract says: %s", r.Name, took, r.Err, r.Says)
	default:
		return fmt.Sprintf("ok        %s (%v)", r.Name, took)
	}
}

// ErrGivenUp is inside the cause with which a clause's t.Context ends while the
// clause still runs: it has taken longer than [Suite.Limit], or Check's own context
// has ended. A factory that can make the calls to its disk fail then should:
//
//	context.AfterFunc(t.Context(), func() {
//		if errors.Is(context.Cause(t.Context()), storetest.ErrGivenUp) {
//			disk.Abandon()
//		}
//	})
var ErrGivenUp = errors.New("given up")

const (
	usualLimit = time.Minute
	// grace is what a clause that was given up gets to end.
	grace = 10 * time.Second
)

// opening is what a suite does first. It has a result only if it fails, since every
// clause opens disks.
var opening = clause{
	name: "DiskOpensAndCloses",
	says: "a disk that a backend was asked for opens, and Close releases it",
}

// Check is Run without go test: it calls each with the result of every clause in
// turn, those that are left out too, and says whether all that were checked hold.
// When ctx ends, the clause that is being checked is given up, and so is the rest.
//
// A clause that does not end is left behind, with its goroutine; see [ErrGivenUp].
func (s Suite) Check(ctx context.Context, each func(Result)) bool {
	if s.Limit == 0 {
		s.Limit = usualLimit
	}
	var made atomic.Pointer[bench] // also by a clause that was left behind
	first := attempt(ctx, s.Limit, opening, func(t testing.TB) { made.Store(newBench(t, s)) })
	b, sound := made.Load(), first.Err == nil
	if !sound || b == nil {
		each(first)
		b = nil
	}
	for _, c := range clauses {
		r := Result{Clause: c.public()}
		switch {
		case ctx.Err() != nil:
			r.Skipped = fmt.Sprintf("%v: %v", ErrGivenUp, context.Cause(ctx))
			sound = false
		case b == nil:
			r.Skipped = "there is no disk to check it with"
		default:
			if r.Skipped = c.leftOut(b); r.Skipped == "" {
				r = attempt(ctx, s.Limit, c, func(t testing.TB) { c.check(t, b) })
			}
		}
		sound = sound && r.Err == nil
		each(r)
	}
	return sound
}

// attempt checks one clause.
func attempt(ctx context.Context, limit time.Duration, c clause, check func(testing.TB)) Result {
	began := time.Now()
	t := newRecorder(ctx, c.name)
	given := wait(ctx, limit, t, t.run(check))
	r := Result{Clause: c.public(), Err: t.err(), Took: time.Since(began)}
	if given != nil {
		r.Err = errors.Join(given, r.Err)
	}
	if r.Err == nil {
		r.Skipped = t.reason()
	}
	return r
}

// wait returns when the clause has ended, or why it was given up.
func wait(ctx context.Context, limit time.Duration, t *recorder, ended <-chan struct{}) error {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	var why error
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		why = fmt.Errorf("%w: %w", ErrGivenUp, context.Cause(ctx))
	case <-timer.C:
		why = fmt.Errorf("%w: it has not ended within %v, so a call hangs, or it is very slow", ErrGivenUp, limit)
	}
	t.giveUp(why)
	timer.Reset(grace)
	select {
	case <-ended:
		return why
	case <-timer.C:
		return fmt.Errorf("%w; it was left behind", why)
	}
}
