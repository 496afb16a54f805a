// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/flexnbd/flexnbd/sdk/store"
)

// watch sees to it that a process that was lost is replaced also when nobody
// calls. It ends with the process's time on the disk.
func (d *Disk) watch(o *opened) {
	if o.process.awaitLoss(d.ctx) {
		d.becomeRestarting(o)
	}
}

// endOld is a variable so that a test can show what happens without it.
var endOld = (*Process).endLost

// replace puts a new process in the place of o, which has lost the disk.
func (d *Disk) replace(o *opened) {
	// First the old process has to be gone, reaped and all: a repeated write
	// must be the last of its kind.
	err := endOld(o.process)
	if err != nil {
		d.giveUp(fmt.Errorf("its backend's process can't be ended, so nothing can be repeated: %w", err))
	}
	close(o.gone)
	d.finishRings(o)
	if err != nil {
		return
	}
	if why := d.whyNone(o); why != nil {
		d.giveUp(why)
		return
	}
	if d.info.Survives == store.SurvivesNothing {
		d.giveUp(fmt.Errorf("its backend %s ended, and what was in it is gone with it", d.program.Name))
		return
	}
	d.noteLostWrites()
	if err := d.bound.retry(d.ctx, d.log, d.program.Name, d.startAgain); err != nil && d.ctx.Err() == nil {
		d.giveUp(fmt.Errorf("its backend %w", err))
	}
}

// startAgain makes one attempt. With a lease, requests on the old loan go on
// meanwhile. Without one the new process may have to lock the disk anew, and can't
// as long as anybody has a descriptor of the old one's.
func (d *Disk) startAgain(ctx context.Context) error {
	if d.lease == nil {
		if err := d.finishLoan(ctx); err != nil {
			return err
		}
	}
	o, err := d.start(ctx)
	if err != nil {
		return err
	}
	if err := d.changed(o.store.Info()); err != nil {
		return errors.Join(err, o.end())
	}
	// The new process may do with the bytes what it likes.
	if err := d.finishLoan(ctx); err != nil {
		return errors.Join(err, o.end())
	}
	d.mu.Lock()
	hooks := slices.Clone(d.onRestart)
	d.mu.Unlock()
	for _, f := range hooks {
		f()
	}
	if err := d.becomeServing(o); err != nil {
		return errors.Join(err, o.end())
	}
	inFlight := "repeated"
	if !d.info.Replayable {
		inFlight = "reads are repeated, writes have failed"
	}
	d.log.Warn("backend restarted", "plugin", d.program.Name, "plugin_pid", o.process.PID(), "restarts", d.Restarts(), "lane", d.Lane(), "in_flight", inFlight)
	return nil
}

// changed returns an error if a new process describes another disk than clients
// were told of. It may have learned meanwhile what the storage can't do: Linux
// takes zeroing off a device that refused it once. The core goes on to ask for
// it, and gets zeroes, or ErrNotSupported for what has to be fast.
func (d *Disk) changed(info store.Info) error {
	able := info
	able.CanPunch, able.CanFast, able.CanDiscard, able.CanExtents =
		d.info.CanPunch, d.info.CanFast, d.info.CanDiscard, d.info.CanExtents
	if able != d.info {
		return fmt.Errorf("%s opened another disk than before, %+v instead of %+v: %w", d.program.Name, info, d.info, errUseless)
	}
	return nil
}

// keepLease keeps the first process's lease, and makes sure that the later ones
// took it and did not open the disk anew: by its name it may be another's.
func (d *Disk) keepLease(lease *os.File) error {
	if d.lease == nil {
		d.lease = lease
		return nil
	}
	if lease == nil {
		return fmt.Errorf("%s did not go on with the lease of the process before it, which is a fault in it: %w", d.program.Name, errUseless)
	}
	defer func() { _ = lease.Close() }()
	was, err := d.lease.Stat()
	if err != nil {
		return err
	}
	is, err := lease.Stat()
	if err != nil {
		return err
	}
	if !os.SameFile(was, is) {
		return fmt.Errorf("%s opened another file than the lease of the process before it, which is a fault in it: %w", d.program.Name, errUseless)
	}
	return nil
}

// giveUp breaks the disk and says so, unless somebody has ended it.
func (d *Disk) giveUp(why error) {
	err := fmt.Errorf("the disk has failed for good: %w: %w", why, store.ErrIO)
	d.mu.Lock()
	hooks := slices.Clone(d.onFailure)
	d.mu.Unlock()
	for _, f := range hooks {
		f()
	}
	if _, first := d.becomeBroken(err); first {
		d.log.Error("the disk has failed for good: every request is answered with EIO until flexnbd is restarted", "reason", why)
	}
}
