// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
)

// recorder is a testing.TB for a clause that is checked without go test: it keeps
// what the clause says instead of printing it. Package testing registers no flags and
// does nothing else for that, as long as nobody calls its Init or Main.
//
//	r := newRecorder(ctx, "WritesReadBack")
//	<-r.run(func(t testing.TB) { ... })
//	err := r.err()
//
// Methods that would change the whole process, Setenv and Chdir, fail the clause.
type recorder struct {
	testing.TB // nil: there for its private method alone

	name   string
	ctx    context.Context
	cancel context.CancelCauseFunc

	mu       sync.Mutex
	failed   bool
	skipped  bool
	wrong    []string // what Error, Fatal and panics said
	why      string   // what Skip said
	cleanups []func() // last one first
}

var _ testing.TB = (*recorder)(nil)

// newRecorder makes a recorder whose context has the values of ctx, but ends with
// the clause, or by giveUp.
func newRecorder(ctx context.Context, name string) *recorder {
	r := &recorder{name: name}
	r.ctx, r.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	return r
}

// run runs check, and then what it gave Cleanup, on a goroutine of its own, at whose
// end the channel is closed.
func (r *recorder) run(check func(testing.TB)) <-chan struct{} {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer r.cleanUp()
		defer r.cancel(context.Canceled)
		defer r.catch()
		check(r)
	}()
	return ended
}

// giveUp ends the context of a clause that is still running.
func (r *recorder) giveUp(why error) { r.cancel(why) }

// catch, when deferred, makes a panic the clause's error.
func (r *recorder) catch() {
	if what := recover(); what != nil {
		r.Errorf("panic: %v\n%s", what, debug.Stack())
	}
}

// cleanUp calls the functions that are left, also when one of them ends its
// goroutine.
func (r *recorder) cleanUp() {
	f := r.lastCleanup()
	if f == nil {
		return
	}
	defer r.cleanUp()
	defer r.catch()
	f()
}

func (r *recorder) lastCleanup() func() {
	r.mu.Lock()
	defer r.mu.Unlock()
	last := len(r.cleanups) - 1
	if last < 0 {
		return nil
	}
	f := r.cleanups[last]
	r.cleanups = r.cleanups[:last]
	return f
}

// err returns what was wrong, nil if nothing was.
func (r *recorder) err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case !r.failed:
		return nil
	case len(r.wrong) == 0:
		return errors.New("the clause failed without saying why")
	}
	const most = 10 // the rest says the same again
	wrong := r.wrong
	if more := len(wrong) - most; more > 0 {
		wrong = append(slices.Clone(wrong[:most]), fmt.Sprintf("and %d more", more))
	}
	return errors.New(strings.Join(wrong, "\n"))
}

// reason returns why the clause left itself out, "" if it did not.
func (r *recorder) reason() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.skipped && r.why == "" {
		return "the clause left itself out without saying why"
	}
	return r.why
}

// What follows is testing.TB.

func (r *recorder) Name() string             { return r.name }
func (r *recorder) Context() context.Context { return r.ctx }
func (r *recorder) Helper()                  {}
func (r *recorder) Log(...any)               {}
func (r *recorder) Logf(string, ...any)      {}
func (r *recorder) Attr(string, string)      {}
func (r *recorder) Output() io.Writer        { return io.Discard }
func (r *recorder) ArtifactDir() string      { return r.TempDir() }

func (r *recorder) Fail() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed = true
}

func (r *recorder) FailNow() {
	r.Fail()
	runtime.Goexit()
}

func (r *recorder) Failed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed
}

func (r *recorder) Error(args ...any) { r.say(fmt.Sprintln(args...)) }

func (r *recorder) Errorf(format string, args ...any) { r.say(fmt.Sprintf(format, args...)) }

func (r *recorder) Fatal(args ...any) {
	r.Error(args...)
	runtime.Goexit()
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	runtime.Goexit()
}

func (r *recorder) say(what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed = true
	r.wrong = append(r.wrong, strings.TrimRight(what, "\n"))
}

func (r *recorder) Skip(args ...any) { r.skip(fmt.Sprintln(args...)) }

func (r *recorder) Skipf(format string, args ...any) { r.skip(fmt.Sprintf(format, args...)) }

func (r *recorder) SkipNow() { r.skip("") }

func (r *recorder) skip(why string) {
	r.mu.Lock()
	r.skipped, r.why = true, strings.TrimRight(why, "\n")
	r.mu.Unlock()
	runtime.Goexit()
}

func (r *recorder) Skipped() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.skipped
}

func (r *recorder) Cleanup(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cleanups = append(r.cleanups, f)
}

func (r *recorder) TempDir() string {
	dir, err := os.MkdirTemp("", "storetest-")
	if err != nil {
		r.Fatalf("no folder for the clause %s: %v", r.name, err)
	}
	r.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			r.Errorf("removing the clause's folder: %v", err)
		}
	})
	return dir
}

func (r *recorder) Setenv(key, _ string) {
	r.Fatalf("a clause must not set the variable %s of the whole process: Setenv is for go test", key)
}

func (r *recorder) Chdir(dir string) {
	r.Fatalf("a clause must not take the whole process to %s: Chdir is for go test", dir)
}
