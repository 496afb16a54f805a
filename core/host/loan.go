// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"context"
	"fmt"

	"github.com/flexnbd/flexnbd/sdk/wire"
)

// NewQueue implements [wire.Queuer]: the file lane for as long as the backend
// lends its descriptor, with calls to the backend for the rest.
//
// On the file lane reads and writes go on while the backend is being restarted.
// They end with the loan: when the plugin takes it back, when another process has
// opened the disk, and when the disk fails.
func (d *Disk) NewQueue(ctx context.Context, sink wire.Sink) wire.Queue {
	return d.lane.NewQueue(wire.NewQueue(ctx, d, sink), sink)
}

// Lane names the lane that reads and writes take now.
func (d *Disk) Lane() string {
	if d.lane.InUse() {
		return wire.LaneFile
	}
	return wire.LaneRPC
}

// useLoan begins with the loan of a process that has begun to serve, if it has
// given one, and watches for its end. The caller holds mu.
func (d *Disk) useLoan(o *opened) {
	switch {
	case o.lent != nil:
		d.lane.Use(o.lent)
		d.tasks.Go(func() { d.watchLoan(o) })
	case o.refused != nil:
		d.log.Warn("the backend's descriptor can't be used, so its data takes the rpc lane, which is slower", "plugin", d.program.Name, "reason", o.refused)
	}
}

// watchLoan gives the descriptor back when the plugin asks for it.
func (d *Disk) watchLoan(o *opened) {
	if o.lent.AwaitRevocation(d.ctx) != nil {
		return // the process has ended, or the disk; what follows ends the loan
	}
	d.lane.Drop(o.lent)
	d.log.Info("the backend takes its descriptor back: from now on data takes the rpc lane", "plugin", d.program.Name)
	if err := o.lent.GiveBack(d.ctx); err != nil && d.ctx.Err() == nil {
		d.log.Warn("the backend can't be told that its descriptor is not in use any more", "plugin", d.program.Name, "error", err)
	}
}

// endLoan ends the loan that is in use, if any, and does not wait.
func (d *Disk) endLoan() *wire.Lent {
	lent := d.lane.Use(nil)
	if lent != nil {
		lent.End()
	}
	return lent
}

// finishLoan ends the loan of a process that is gone and waits for whoever is
// using it: its successor may do with the bytes what it likes.
func (d *Disk) finishLoan(ctx context.Context) error {
	lent := d.endLoan()
	if lent == nil {
		return nil
	}
	select {
	case <-lent.Ended():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("requests on the disk's descriptor do not end: %w", ctx.Err())
	}
}
