// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/hashicorp/go-hclog"

	"github.com/flexnbd/flexnbd/sdk/rangelock"
	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// Disk is a store that outlives its backend's process. When that crashes or
// hangs, it is killed and reaped, a new one is started, and the calls that were
// under way are repeated; the caller sees a pause.
//
//	          lost                 a new process serves
//	serving ---------> restarting ----------------------> serving
//	   |                   |
//	   | Abandon, Close    | not allowed, or not possible
//	   +---------+---------+
//	             v
//	           broken: every call fails, for good
//
// A repeat is safe because of four rules:
//
//   - the old process has been reaped before: nothing of it can still land;
//   - the store says Replayable: neither can anything that it sent elsewhere;
//   - two calls that overlap, one of them a write, are never under way together:
//     the later one waits. So what is repeated never lands on something newer
//     that was acknowledged meanwhile, and a read never sees the old bytes of a
//     range after the new ones;
//   - what was acknowledged is still there: Survives says so.
//
// Lock order: a call's claim on its range, then mu. Nobody waits for a process
// with mu held.
type Disk struct {
	host    *Host
	program Program
	open    wire.Disk
	log     hclog.Logger

	info   store.Info
	ranges rangelock.Lock

	ctx    context.Context // ends with the disk
	cancel context.CancelFunc
	tasks  sync.WaitGroup // watchers and restarts
	bound  restartBound   // the restarting goroutine's; there is one at a time

	mu        sync.Mutex
	current   *opened       // nil unless serving
	process   *Process      // the latest
	changed   chan struct{} // closed at the end of restarting
	broken    error         // why every call fails
	restarts  int           // how many there were
	lease     *os.File      // keeps the backend's lock over a restart; may be nil
	onRestart []func()      // called before calls go on after a restart
}

// opened is one process with the disk open in it.
type opened struct {
	process *Process
	store   store.Store
}

var _ store.Store = (*Disk)(nil)

// ErrAbandoned is inside the error of every call after Abandon.
var ErrAbandoned = errors.New("the disk was given up")

// OpenDisk starts program and opens a disk in it that survives the process. ctx
// bounds the start alone.
func (h *Host) OpenDisk(ctx context.Context, program Program, disk wire.Disk) (*Disk, error) {
	d := &Disk{host: h, program: program, open: disk, log: h.log}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	o, err := d.start(ctx)
	if err != nil {
		d.cancel()
		return nil, err
	}
	d.info = o.store.Info()
	return d, d.becomeServing(o)
}

// OnRestart has f called whenever a new process has taken over, before any call
// reaches it. What was unflushed in the old one may be lost then, if the store
// says so.
func (d *Disk) OnRestart(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.onRestart = append(d.onRestart, f)
}

// Process returns the process that serves the disk now, or did last.
func (d *Disk) Process() *Process {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.process
}

// Restarts is how often a new process took over.
func (d *Disk) Restarts() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.restarts
}

// start starts a process and opens the disk in it, on the lease if there is one.
func (d *Disk) start(ctx context.Context) (*opened, error) {
	process, err := d.host.Start(ctx, d.program)
	if err != nil {
		return nil, err
	}
	disk := d.open
	disk.Lease = d.lease
	s, lease, err := process.openDisk(ctx, disk)
	if err != nil {
		return nil, errors.Join(err, process.end())
	}
	if d.lease == nil {
		d.lease = lease
	} else if lease != nil {
		_ = lease.Close() // it is the same
	}
	return &opened{process: process, store: s}, nil
}

// becomeServing fails if the disk was broken meanwhile.
func (d *Disk) becomeServing(o *opened) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.broken != nil {
		return d.broken
	}
	d.current, d.process = o, o.process
	if d.changed != nil {
		close(d.changed)
		d.changed = nil
		d.restarts++
	}
	d.tasks.Go(func() { d.watch(o) })
	return nil
}

// becomeRestarting takes the disk away from o. It says whether it was o's.
func (d *Disk) becomeRestarting(o *opened) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.current != o || d.broken != nil {
		return false
	}
	d.current = nil
	d.changed = make(chan struct{})
	d.tasks.Go(func() { d.restart(o) })
	return true
}

// becomeBroken makes every call fail, those that wait included.
func (d *Disk) becomeBroken(err error) (was *opened) {
	d.mu.Lock()
	defer d.mu.Unlock()
	was, d.current = d.current, nil
	if d.broken == nil {
		d.broken = err
	}
	if d.changed != nil {
		close(d.changed)
		d.changed = nil
	}
	return was
}

// serving waits while the disk is restarting.
func (d *Disk) serving(ctx context.Context) (*opened, error) {
	for {
		d.mu.Lock()
		o, changed, broken := d.current, d.changed, d.broken
		d.mu.Unlock()
		switch {
		case broken != nil:
			return nil, broken
		case o != nil:
			return o, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// call carries out one call, on as many processes as it takes.
func (d *Disk) call(ctx context.Context, repeatable bool, do func(store.Store) error) error {
	for {
		o, err := d.serving(ctx)
		if err != nil {
			return err
		}
		err = do(o.store)
		if !errors.Is(err, wire.ErrPluginGone) {
			return err
		}
		d.becomeRestarting(o)
		if !repeatable {
			return err
		}
	}
}

// locked is call with the range locked, so that overlapping calls take turns.
func (d *Disk) locked(ctx context.Context, off, length int64, change bool, do func(store.Store) error) error {
	claim, err := d.ranges.Lock(ctx, off, off+length, change)
	if err != nil {
		return err
	}
	defer d.ranges.Unlock(claim)
	return d.call(ctx, !change || d.info.Replayable, do)
}

// Info returns what the first process said. A later one has to say the same.
func (d *Disk) Info() store.Info { return d.info }

// ReadAt implements [store.Store].
func (d *Disk) ReadAt(ctx context.Context, p []byte, off int64) error {
	return d.locked(ctx, off, int64(len(p)), false, func(s store.Store) error { return s.ReadAt(ctx, p, off) })
}

// WriteAt implements [store.Store].
func (d *Disk) WriteAt(ctx context.Context, p []byte, off int64, flags store.Flags) error {
	return d.locked(ctx, off, int64(len(p)), true, func(s store.Store) error { return s.WriteAt(ctx, p, off, flags) })
}

// PunchHole implements [store.Store].
func (d *Disk) PunchHole(ctx context.Context, off, length int64, flags store.Flags) error {
	return d.locked(ctx, off, length, true, func(s store.Store) error { return s.PunchHole(ctx, off, length, flags) })
}

// Extents implements [store.Store].
func (d *Disk) Extents(ctx context.Context, off, length int64) (extents []store.Extent, err error) {
	err = d.call(ctx, true, func(s store.Store) (err error) {
		extents, err = s.Extents(ctx, off, length)
		return err
	})
	return extents, err
}

// Flush implements [store.Store]. Where only flushed writes survive a process, a
// flush that lost its process has failed, since a repeated one would find nothing
// to flush; it returns when the next process serves.
func (d *Disk) Flush(ctx context.Context) error {
	repeatable := d.info.Survives == store.SurvivesAcknowledged
	err := d.call(ctx, repeatable, func(s store.Store) error { return s.Flush(ctx) })
	if errors.Is(err, wire.ErrPluginGone) {
		_, gone := d.serving(ctx)
		err = errors.Join(err, gone)
	}
	return err
}

// Abandon makes every call fail, now and later, and ends the process, by force.
func (d *Disk) Abandon() error { return d.stop(fmt.Errorf("%w: %w", ErrAbandoned, store.ErrIO), false) }

// Close closes the disk and ends the process. No call may be under way, unless
// the disk was abandoned.
func (d *Disk) Close() error {
	return d.stop(fmt.Errorf("the disk is closed: %w", store.ErrIO), true)
}

func (d *Disk) stop(why error, inOrder bool) error {
	d.cancel() // no restart from now on
	var err error
	switch o := d.becomeBroken(why); {
	case o == nil:
	case inOrder:
		err = errors.Join(o.store.Close(), o.process.Stop(context.Background()))
	default:
		err = o.process.stopNow()
	}
	d.tasks.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lease != nil {
		_ = d.lease.Close()
		d.lease = nil
	}
	return err
}
