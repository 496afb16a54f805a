// SPDX-License-Identifier: GPL-3.0-or-later

package check

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/core/host"
	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// The disk of a process that is killed is divided into fields of one block each, which
// are filled with one byte, the field's generation.
const (
	field = store.MaxMinBlock

	flushedFields = 2 // written before the last flush
	loneFields    = 2 // written again after it
	writers       = 4 // a field for each, who goes on writing

	// enough is what each writer writes before the kill, and after it.
	enough = 16
	// backWait is how long a new process may take.
	backWait = 30 * time.Second
)

// victim is a disk whose process is killed.
type victim struct {
	store.Store
	disk *host.Disk
	info store.Info
}

// kill kills a process in the middle of writes, and looks for what it had acknowledged.
func (r *run) kill(ctx context.Context, lane string) (leftOut string, err error) {
	d, remove, err := r.open(ctx, leastSize, lane, false)
	if err != nil {
		return "", err
	}
	stop := context.AfterFunc(ctx, func() { _ = d.Abandon() })
	defer stop()
	v := &victim{Store: overLane(d), disk: d, info: d.Info()}
	if v.info.Survives == store.SurvivesNothing {
		leftOut = "Info.Survives is SurvivesNothing: there is nothing to look for"
	} else {
		err = v.die(ctx)
	}
	return leftOut, errors.Join(err, v.Close(), remove())
}

func (v *victim) die(ctx context.Context) error {
	for i := range int64(flushedFields + loneFields + writers) {
		if err := v.write(ctx, i, 1); err != nil {
			return err
		}
	}
	if err := v.Flush(ctx); err != nil {
		return fmt.Errorf("Flush: %w", err)
	}
	for i := range int64(loneFields) {
		if err := v.write(ctx, flushedFields+i, 2); err != nil {
			return err
		}
	}
	team := v.recruit(ctx)
	err := team.await(ctx, enough)
	if err == nil {
		err = v.killProcess(ctx)
	}
	if err == nil {
		err = team.await(ctx, team.least()+enough)
	}
	if err = errors.Join(err, team.end()); err != nil {
		return err
	}
	return errors.Join(v.judge(ctx, team), v.flushAfter(ctx))
}

// killProcess returns when a new one serves.
func (v *victim) killProcess(ctx context.Context) error {
	if err := unix.Kill(v.disk.Process().PID(), unix.SIGKILL); err != nil {
		return fmt.Errorf("process %d can't be killed: %w", v.disk.Process().PID(), err)
	}
	for deadline := time.Now().Add(backWait); ; pause(ctx, time.Millisecond) {
		switch {
		case v.disk.Restarts() > 0:
			return nil
		case v.disk.State() == "failed":
			_, err := v.Extents(ctx, 0, field)
			return fmt.Errorf("after its process was killed: %w", err)
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case time.Now().After(deadline):
			return fmt.Errorf("%v after its process was killed, no other one serves the disk; the log says why", backWait)
		}
	}
}

// judge reads everything back.
func (v *victim) judge(ctx context.Context, team *team) error {
	lone := []byte{2}
	if v.info.Survives == store.SurvivesFlushed {
		lone = []byte{1, 2} // bytes of either
	}
	for i := range int64(flushedFields) {
		if err := v.holds(ctx, i, "flushed before its process was killed, which Info.Survives says is kept", 1); err != nil {
			return err
		}
	}
	for i := range int64(loneFields) {
		if err := v.holds(ctx, flushedFields+i, fmt.Sprintf("acknowledged and not flushed before its process was killed (Info.Survives is %d)", v.info.Survives), lone...); err != nil {
			return err
		}
	}
	for i := range team.members {
		m := &team.members[i]
		if err := v.holds(ctx, m.field, "written again and again while its process was killed", m.possible...); err != nil {
			return err
		}
	}
	return nil
}

// flushAfter checks that the new process can flush.
func (v *victim) flushAfter(ctx context.Context) error {
	if err := v.Flush(ctx); err != nil {
		return fmt.Errorf("Flush in the process after the one that was killed: %w", err)
	}
	return nil
}

func (v *victim) write(ctx context.Context, at int64, generation byte) error {
	p := make([]byte, field)
	for i := range p {
		p[i] = generation
	}
	if err := v.WriteAt(ctx, p, at*field, 0); err != nil {
		return fmt.Errorf("WriteAt of %d bytes at %d: %w", field, at*field, err)
	}
	return nil
}

// holds reads a field, which was written as what says.
func (v *victim) holds(ctx context.Context, at int64, what string, generations ...byte) error {
	p := make([]byte, field)
	if err := v.ReadAt(ctx, p, at*field); err != nil {
		return fmt.Errorf("ReadAt of %d bytes at %d: %w", field, at*field, err)
	}
next:
	for i, c := range p {
		for _, g := range generations {
			if c == g {
				continue next
			}
		}
		return fmt.Errorf("byte %d reads as %#02x, want %#02x: it was %s", at*field+int64(i), c, generations, what)
	}
	return nil
}

// team writes on while the process is killed.
type team struct {
	members []member
	over    atomic.Bool
	working sync.WaitGroup
}

// member has a field to itself.
type member struct {
	field    int64
	written  atomic.Int64 // writes that have returned
	possible []byte       // generations of which bytes may be there; valid once the member has ended
	err      error        // the same
	ended    atomic.Bool
}

func (v *victim) recruit(ctx context.Context) *team {
	t := &team{members: make([]member, writers)}
	for i := range t.members {
		m := &t.members[i]
		m.field = int64(flushedFields + loneFields + i)
		t.working.Go(func() {
			defer m.ended.Store(true)
			v.work(ctx, m, &t.over)
		})
	}
	return t
}

// work writes one generation after the other. A write may fail only where it was in
// flight and can't be repeated; then either generation may be there.
func (v *victim) work(ctx context.Context, m *member, over *atomic.Bool) {
	m.possible = []byte{1}
	for generation := byte(2); !over.Load() && ctx.Err() == nil; generation = 2 + (generation-1)%200 {
		err := v.write(ctx, m.field, generation)
		switch {
		case err == nil:
			m.possible = []byte{generation}
		case !v.info.Replayable && errors.Is(err, wire.ErrPluginGone):
			m.possible = append(m.possible, generation)
		case v.info.Replayable:
			m.err = fmt.Errorf("though Info.Replayable is set: %w", err)
			return
		default:
			m.err = err
			return
		}
		m.written.Add(1)
	}
}

// await waits until every member has written n times.
func (t *team) await(ctx context.Context, n int64) error {
	for t.least() < n {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		for i := range t.members {
			if t.members[i].ended.Load() {
				return nil // end says why
			}
		}
		pause(ctx, time.Millisecond)
	}
	return nil
}

// least returns how often the slowest member has written.
func (t *team) least() int64 {
	least := t.members[0].written.Load()
	for i := range t.members {
		least = min(least, t.members[i].written.Load())
	}
	return least
}

// end lets everybody finish, and returns what went wrong for them.
func (t *team) end() error {
	t.over.Store(true)
	t.working.Wait()
	for i := range t.members {
		if err := t.members[i].err; err != nil {
			return err
		}
	}
	return nil
}
