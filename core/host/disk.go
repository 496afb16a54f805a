// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"github.com/hashicorp/go-hclog"

	"github.com/flexnbd/flexnbd/sdk/rangelock"
	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/wire"
	"github.com/flexnbd/flexnbd/sdk/wire/filelane"
	"github.com/flexnbd/flexnbd/sdk/wire/ringlane"
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
//   - the old process has been reaped before: nothing of it can still land. A call
//     that fails instead waits for that, too;
//   - the store says Replayable: neither can anything that it sent elsewhere;
//   - two calls that overlap, one of them a write, are never under way together:
//     the later one waits. So what is repeated never lands on something newer
//     that was acknowledged meanwhile, and a read never sees the old bytes of a
//     range after the new ones;
//   - what was acknowledged is still there: Survives says so.
//
// A flush is repeated like a write where everything acknowledged survives. That
// the process may have died with the only report of a lost write in its hands,
// errorCursor deals with: the disk asks the kernel after each crash, and if there
// was one, every flush and FUA fails from then on.
//
// The package comment has the lock order.
type Disk struct {
	host    *Host
	program Program
	open    wire.Disk
	log     hclog.Logger

	info   store.Info
	ranges rangelock.Lock
	lane   *filelane.Lane // over ranges
	rings  *ringlane.Lane // over ranges; nil unless the first process said that its lane is that

	flushRepeatable bool // whether a call that makes durable is repeated

	ctx    context.Context // ends with the disk
	cancel context.CancelFunc
	tasks  sync.WaitGroup // watchers and restarts

	// OpenDisk's, then the restarting goroutine's, of which there is one at a
	// time, then stop's.

	bound  restartBound
	lease  *os.File     // keeps the backend's lock over a restart; may be nil
	cursor *errorCursor // may be nil
	lost   error        // why nothing can be made durable any more

	closing sync.Mutex // taken by stop, before mu

	mu        sync.Mutex
	current   *opened       // nil unless serving
	process   *Process      // the latest
	loan      *wire.Lent    // the latest; may be nil, or over
	again     chan struct{} // closed at the end of restarting
	broken    error         // why every call fails
	restarts  int           // how many there were
	onRestart []func()      // called before calls go on after a restart
	onFailure []func()      // called before calls fail for good
	previous  *opened       // served last
}

// opened is one process with the disk open in it.
type opened struct {
	process *Process
	store   store.Store
	lent    *wire.Lent      // nil without a loan
	refused error           // why there is none, if there might have been
	rings   wire.RingOpener // nil without the ring lane

	// The disk's mu.

	asRings     *rings // as the ring lane sees it
	distrusted  error  // why nothing that it says can be believed
	silent      bool   // it did not read its rings
	afterSilent bool   // the one before it did not either

	gone chan struct{} // closed once the process has ended, or the disk has failed
}

var (
	_ store.Store = (*Disk)(nil)
	_ wire.Queuer = (*Disk)(nil)
)

// ErrAbandoned is inside the error of every call after Abandon.
var ErrAbandoned = errors.New("the disk was given up")

// OpenDisk starts program and opens a disk in it that survives the process. ctx
// bounds the start alone.
func (h *Host) OpenDisk(ctx context.Context, program Program, disk wire.Disk) (*Disk, error) {
	d := &Disk{host: h, program: program, open: disk, log: h.log}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.lane = filelane.New(&d.ranges)
	o, err := d.start(ctx)
	if err != nil {
		d.cancel()
		return nil, err
	}
	d.info = o.store.Info()
	d.makeCursor()
	d.makeRings(o)
	return d, d.becomeServing(o)
}

// OnRestart has f called whenever a new process has taken over, before any call
// reaches it. What was unflushed in the old one may be lost then, if the store
// says so. f must not call the disk. OnRestart comes before the first write.
func (d *Disk) OnRestart(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.onRestart = append(d.onRestart, f)
}

// OnFailure has f called when the disk is about to fail for good, because there is
// no process that could go on: what its owner knows of it is worth nothing any
// more. f must not call the disk.
func (d *Disk) OnFailure(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.onFailure = append(d.onFailure, f)
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

// State says in a word what becomes of calls now: "serving" if they are carried
// out, "restarting" if they wait for a new process, "failed" if they fail, for
// good.
func (d *Disk) State() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.broken != nil:
		return "failed"
	case d.current == nil:
		return "restarting"
	}
	return "serving"
}

// start starts a process and opens the disk in it, on the lease if there is one.
func (d *Disk) start(ctx context.Context) (*opened, error) {
	process, err := d.host.Start(ctx, d.program)
	if err != nil {
		return nil, err
	}
	disk := d.open
	disk.Lease = d.lease
	if d.rings != nil { // queues are made for it
		disk.Lanes = slices.DeleteFunc(slices.Clone(disk.Lanes), func(lane string) bool { return lane == wire.LaneFile })
	}
	s, err := process.OpenDisk(ctx, disk)
	switch {
	case errors.Is(err, wire.ErrPluginGone):
		return nil, errors.Join(err, process.endLost())
	case err != nil:
		return nil, errors.Join(err, process.end())
	}
	o := &opened{process: process, store: s, gone: make(chan struct{})}
	if err := d.takeDescriptors(o); err != nil {
		return nil, errors.Join(err, o.end())
	}
	if d.lost != nil {
		o.store = &undurable{Store: s, why: d.lost}
	}
	return o, nil
}

// takeDescriptors takes what an answer brought besides the disk.
func (d *Disk) takeDescriptors(o *opened) error {
	remote := o.store.(*namedStore).Store
	if taker, ok := remote.(wire.LentTaker); ok {
		o.lent, o.refused = taker.TakeLent()
	}
	if opener, ok := remote.(wire.RingOpener); ok && opener.HasRings() {
		o.rings = opener
	}
	var lease *os.File
	if taker, ok := remote.(wire.LeaseTaker); ok {
		lease = taker.TakeLease()
	}
	return d.keepLease(lease)
}

// end ends a process that is not to serve the disk, after all.
func (o *opened) end() error {
	if o.lent != nil {
		o.lent.End()
	}
	return o.process.end()
}

// becomeServing fails if the disk was broken meanwhile.
func (d *Disk) becomeServing(o *opened) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.broken != nil {
		return d.broken
	}
	if d.previous != nil {
		o.afterSilent = d.previous.silent
	}
	d.current, d.previous, d.process = o, o, o.process
	d.useLoan(o)
	d.useRings(o)
	if d.again != nil {
		close(d.again)
		d.again = nil
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
	d.leaveRings()
	d.again = make(chan struct{})
	d.tasks.Go(func() { d.replace(o) })
	return true
}

// becomeBroken makes every call fail, those that wait included. It returns what
// served until now, if anything, and whether the disk was not broken before.
func (d *Disk) becomeBroken(err error) (was *opened, first bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	was, d.current = d.current, nil
	if first = d.broken == nil; first {
		d.broken = err
	}
	d.endLoan()
	d.leaveRings()
	if d.again != nil {
		close(d.again)
		d.again = nil
	}
	return was, first
}

// serving waits while the disk is restarting.
func (d *Disk) serving(ctx context.Context) (*opened, error) {
	for {
		d.mu.Lock()
		o, again, broken := d.current, d.again, d.broken
		d.mu.Unlock()
		switch {
		case broken != nil:
			return nil, broken
		case o != nil:
			return o, nil
		}
		select {
		case <-again:
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
		// What is in flight may land until then. Whoever waits for the range need
		// not wait for the next process: it may use the loan.
		<-o.gone
		if !repeatable {
			return err
		}
	}
}

// locked is call with the range locked, so that overlapping calls take turns.
func (d *Disk) locked(ctx context.Context, off, length int64, change, repeatable bool, do func(store.Store) error) error {
	claim, err := d.ranges.Lock(ctx, off, off+length, change)
	if err != nil {
		return err
	}
	defer d.ranges.Unlock(claim)
	return d.call(ctx, repeatable, do)
}

// replayable says whether a change with these flags may be repeated. Without a
// cursor the flushing half of FUA may not; but where only flushed writes survive,
// it answers for its own range alone.
func (d *Disk) replayable(flags store.Flags) bool {
	return d.info.Replayable &&
		(flags&store.FUA == 0 || d.flushRepeatable || d.info.Survives == store.SurvivesFlushed)
}

// Info returns what the first process said. A later one has to say the same.
func (d *Disk) Info() store.Info { return d.info }

// ReadAt implements [store.Store].
func (d *Disk) ReadAt(ctx context.Context, p []byte, off int64) error {
	return d.locked(ctx, off, int64(len(p)), false, true, func(s store.Store) error { return s.ReadAt(ctx, p, off) })
}

// WriteAt implements [store.Store].
func (d *Disk) WriteAt(ctx context.Context, p []byte, off int64, flags store.Flags) error {
	return d.locked(ctx, off, int64(len(p)), true, d.replayable(flags), func(s store.Store) error { return s.WriteAt(ctx, p, off, flags) })
}

// PunchHole implements [store.Store].
func (d *Disk) PunchHole(ctx context.Context, off, length int64, flags store.Flags) error {
	return d.locked(ctx, off, length, true, d.replayable(flags), func(s store.Store) error { return s.PunchHole(ctx, off, length, flags) })
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
	err := d.call(ctx, d.flushRepeatable, func(s store.Store) error { return s.Flush(ctx) })
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

// stop returns once every process has ended, or is known not to, whoever called
// it first.
func (d *Disk) stop(why error, inOrder bool) error {
	d.cancel() // no restart from now on
	o, _ := d.becomeBroken(why)
	if !inOrder {
		_ = d.Process().stopNow() // also while another goroutine closes the disk; the error comes again
	}
	d.closing.Lock()
	defer d.closing.Unlock()
	var err error
	if inOrder {
		err = d.awaitLoan()
	}
	if o != nil && inOrder {
		err = errors.Join(err, o.process.letGo(o.store.Close), o.process.Stop(context.Background()))
	} else if o != nil {
		err = o.process.stopNow()
	}
	if o != nil {
		close(o.gone)
		d.finishRings(o)
	}
	d.tasks.Wait()
	if d.lease != nil {
		_ = d.lease.Close()
		d.lease = nil
	}
	if d.cursor != nil {
		_ = d.cursor.close()
		d.cursor = nil
	}
	return err
}
