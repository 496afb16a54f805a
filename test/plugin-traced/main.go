// SPDX-License-Identifier: Apache-2.0

// Command plugin-traced is a backend that the tests use to see, and to hold up,
// what reaches a backend. It is a disk in memory of --file bytes, and lends nothing.
// It has these options:
//
//	trace=PATH  append a line to this file for each write, flush and close
//	hold=FIFO   a write waits, after its first line in the trace, until somebody
//	            has opened this FIFO for writing and closed it again
//	fail=flush  every flush fails; with fail=first-flush the first one, and no
//	            other
//	broken=PATH as long as this file is there, writes and zeroings fail
//	revoke=FIFO lend the disk's memory, which is a file's then (a memfd) and
//	            outlives the process; take it back when a line comes through this
//	            FIFO. The trace gets a line "revoke" before and "revoked" after
//	after=move  once the file was taken back, the bytes move to the process's own
//	            memory, and end with it, and the trace gets a line "moved". With
//	            another line through the FIFO, rubbish takes their place in the
//	            file, and the trace gets a line "spoilt"
package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"

	"github.com/flexnbd/flexnbd/sdk"
	"github.com/flexnbd/flexnbd/sdk/memstore"
	"github.com/flexnbd/flexnbd/sdk/option"
	"github.com/flexnbd/flexnbd/sdk/store"
)

func main() {
	sdk.ServeBackend(sdk.Backend{Name: "traced", Version: sdk.Version, Options: options, Open: open})
}

// options are the faults and traces that a test can order.
var options = option.Set{
	{Name: "trace", Type: option.Path, Help: "write a line for each call to this file"},
	{Name: "hold", Help: "the calls to hold up"},
	{Name: "fail", Type: option.Choice, Choices: []string{"flush", "first-flush"}, Help: "the calls to fail"},
	{Name: "broken", Help: "the rule to break"},
	{Name: "revoke", Type: option.Path, Help: "lend a file, and revoke it when somebody writes to this FIFO"},
	{Name: "after", Type: option.Choice, Choices: []string{"move"}, Help: "what to do after that"},
}

func open(_ context.Context, disk sdk.Disk) (store.Store, error) {
	size, err := strconv.ParseInt(disk.Location, 10, 64)
	if err != nil || size < 0 || size > store.MaxSize {
		return nil, fmt.Errorf("--file %q is no size in bytes: %w", disk.Location, store.ErrInvalid)
	}
	t := &traced{Store: memstore.New(size)}
	revoke, moves := "", false
	for name, value := range disk.Options {
		switch {
		case name == "trace":
			if t.trace, err = os.OpenFile(value, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600); err != nil {
				return nil, err
			}
		case name == "hold":
			t.hold = value
		case name == "fail" && value == "flush":
			t.failures.Store(math.MaxInt64)
		case name == "fail" && value == "first-flush":
			t.failures.Store(1)
		case name == "broken":
			t.broken = value
		case name == "revoke":
			revoke = value
		case name == "after" && value == "move":
			moves = true
		}
	}
	if revoke != "" {
		return lend(t, revoke, moves, size, disk.Lease)
	}
	return t, nil
}

// traced is a Store whose calls can be seen and held up.
type traced struct {
	store.Store
	trace    *os.File     // may be nil
	hold     string       // may be empty
	broken   string       // may be empty
	failures atomic.Int64 // of flushes that are still to come
}

// say appends a line to the trace, in one write: lines do not mix.
func (t *traced) say(format string, args ...any) error {
	if t.trace == nil {
		return nil
	}
	_, err := t.trace.WriteString(fmt.Sprintf(format, args...) + "\n")
	return err
}

// breaks fails if the disk is broken just now.
func (t *traced) breaks() error {
	if t.broken == "" {
		return nil
	}
	if _, err := os.Lstat(t.broken); err != nil {
		return nil
	}
	return fmt.Errorf("this disk was made to fail: %w", syscall.EIO)
}

func (t *traced) PunchHole(ctx context.Context, off, length int64, flags store.Flags) error {
	if err := t.breaks(); err != nil {
		return err
	}
	return t.Store.PunchHole(ctx, off, length, flags)
}

func (t *traced) WriteAt(ctx context.Context, p []byte, off int64, flags store.Flags) error {
	if err := t.breaks(); err != nil {
		return err
	}
	if err := t.say("write %d %d", off, len(p)); err != nil {
		return err
	}
	if t.hold != "" {
		if err := wait(t.hold); err != nil {
			return err
		}
	}
	if err := t.Store.WriteAt(ctx, p, off, flags); err != nil {
		return err
	}
	return t.say("written %d %d", off, len(p))
}

// wait returns once a FIFO has had a writer that has left.
func wait(fifo string) error {
	f, err := os.Open(fifo)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	_, err = io.Copy(io.Discard, f)
	return err
}

func (t *traced) Flush(ctx context.Context) error {
	if t.failures.Add(-1) >= 0 {
		return fmt.Errorf("this flush was made to fail: %w", syscall.EIO)
	}
	if err := t.Store.Flush(ctx); err != nil {
		return err
	}
	return t.say("flush")
}

func (t *traced) Close() error {
	if err := t.say("close"); err != nil {
		return err
	}
	return t.Store.Close()
}
