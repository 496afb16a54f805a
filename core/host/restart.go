// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/flexnbd/flexnbd/sdk/store"
)

// Bounds on restarts.
const (
	restartWindow = time.Minute
	// restartTimeout bounds one start.
	restartTimeout = 30 * time.Second
	// firstPause grows twofold with each start that fails, up to lastPause.
	firstPause = 50 * time.Millisecond
	lastPause  = 2 * time.Second
)

// maxRestarts within restartWindow is the end: a backend that crashes that often
// does not serve anybody. Tests that crash one raise it.
var maxRestarts = 20

// Heartbeat: a plugin answers within hangTimeout however busy its disk is, since
// the question does not touch the disk.
const (
	beat        = 2 * time.Second
	hangTimeout = 15 * time.Second
)

// watch sees to it that a process that ended, was stopped, or hangs is replaced
// also when nobody calls. It ends with the process's time on the disk.
func (d *Disk) watch(o *opened) {
	ticker := time.NewTicker(beat)
	defer ticker.Stop()
	for {
		select {
		case <-d.ctx.Done():
			return
		case <-o.process.Exited():
		case <-o.process.Stalled():
			d.log.Error("plugin was stopped by a signal and is replaced", "plugin", d.program.Name, "plugin_pid", o.process.PID())
		case <-ticker.C:
			err := o.process.ping(d.ctx, hangTimeout)
			if !errors.Is(err, context.DeadlineExceeded) {
				continue // it answered; or it is gone, and Exited will say so
			}
			d.log.Error("plugin does not answer and is replaced", "plugin", d.program.Name, "plugin_pid", o.process.PID(), "after", hangTimeout)
		}
		d.becomeRestarting(o)
		return
	}
}

// endOld is a variable so that a test can show what happens without it.
var endOld = (*Process).stopNow

// restart replaces o, which has lost the disk, by a new process.
func (d *Disk) restart(o *opened) {
	// First the old process has to be gone, reaped and all: a repeated write
	// must be the last of its kind.
	if err := endOld(o.process); err != nil {
		d.giveUp(fmt.Errorf("its backend's process can't be ended, so nothing can be repeated: %w", err))
		return
	}
	if d.info.Survives == store.SurvivesNothing {
		d.giveUp(fmt.Errorf("its backend %s ended, and what was in it is gone with it", d.program.Name))
		return
	}
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		if !d.bound.allow(time.Now()) {
			d.giveUp(fmt.Errorf("its backend %s was restarted %d times within %v", d.program.Name, maxRestarts, restartWindow))
			return
		}
		err := d.startAgain()
		if err == nil {
			return
		}
		if d.ctx.Err() != nil {
			return // whoever ended the disk has broken it
		}
		d.log.Error("backend can't be restarted yet", "plugin", d.program.Name, "error", err, "again_in", pause)
		select {
		case <-time.After(pause):
		case <-d.ctx.Done():
			return
		}
	}
}

// startAgain makes one attempt.
func (d *Disk) startAgain() error {
	ctx, cancel := context.WithTimeout(d.ctx, restartTimeout)
	defer cancel()
	o, err := d.start(ctx)
	if err != nil {
		return err
	}
	if info := o.store.Info(); info != d.info {
		err := fmt.Errorf("it is another disk now: %+v instead of %+v", info, d.info)
		return errors.Join(err, o.process.end())
	}
	d.mu.Lock()
	hooks := slices.Clone(d.onRestart)
	d.mu.Unlock()
	for _, f := range hooks {
		f()
	}
	if err := d.becomeServing(o); err != nil {
		return errors.Join(err, o.process.end())
	}
	d.log.Warn("backend restarted; requests in flight are repeated", "plugin", d.program.Name, "plugin_pid", o.process.PID(), "restarts", d.Restarts())
	return nil
}

// restartBound remembers when something was restarted.
type restartBound struct{ times []time.Time }

// allow counts an attempt and says whether it is within the bound.
func (b *restartBound) allow(now time.Time) bool {
	for len(b.times) > 0 && now.Sub(b.times[0]) > restartWindow {
		b.times = b.times[1:]
	}
	if len(b.times) >= maxRestarts {
		return false
	}
	b.times = append(b.times, now)
	return true
}

// giveUp breaks the disk and says so.
func (d *Disk) giveUp(why error) {
	err := fmt.Errorf("the disk has failed for good: %w: %w", why, store.ErrIO)
	d.becomeBroken(err)
	d.log.Error("the disk has failed for good: every request is answered with EIO until flexnbd is restarted", "reason", why)
}
