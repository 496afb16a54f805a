// SPDX-License-Identifier: Apache-2.0

package transporttest

import (
	"context"
	"fmt"
	"runtime/debug"
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

// Suite is [Run] without go test.
type Suite struct {
	// Subject makes the subject of one clause, as a [Factory] does.
	Subject func() (Subject, error)

	// LeaveOut, when not nil, says why a clause is not to be checked; "" has it
	// checked.
	LeaveOut func(Clause) (why string)
}

// Check calls each with the result of every clause in turn, those that are left out
// too, and says whether all that were checked hold. When ctx ends, the rest is left
// out, and the answer is no.
func (s Suite) Check(ctx context.Context, each func(Result)) bool {
	sound := true
	for _, c := range clauses {
		r := Result{Clause: c.public()}
		switch {
		case ctx.Err() != nil:
			r.Skipped = fmt.Sprintf("given up: %v", context.Cause(ctx))
			sound = false
		case s.LeaveOut != nil:
			r.Skipped = s.LeaveOut(r.Clause)
		}
		if r.Skipped == "" {
			began := time.Now()
			r.Skipped, r.Err = s.attempt(ctx, c)
			r.Took = time.Since(began)
		}
		sound = sound && r.Err == nil
		each(r)
	}
	return sound
}

// attempt checks one clause. A panic of the transport's is its error.
func (s Suite) attempt(ctx context.Context, c clause) (skipped string, err error) {
	defer func() {
		if what := recover(); what != nil {
			err = fmt.Errorf("panic: %v\n%s", what, debug.Stack())
		}
	}()
	subject, err := s.Subject()
	if err != nil {
		return "", fmt.Errorf("there is nothing to check: %w", err)
	}
	if why := c.leftOut(subject); why != "" {
		return why, nil
	}
	return "", try(ctx, subject, patience, c.check)
}
