// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"context"
	"errors"
	"fmt"

	"github.com/flexnbd/flexnbd/sdk/wire"
)

// NewQueue implements [wire.Queuer]: a ring if that is the disk's lane, else the file
// lane for as long as the backend lends its descriptor, with calls to the backend for
// the rest.
//
// On the file lane reads and writes go on while the backend is being restarted, if
// it gave a lease.
// They end with the loan: when the plugin takes it back, when another process has
// opened the disk, and when the disk fails.
func (d *Disk) NewQueue(ctx context.Context, sink wire.Sink) wire.Queue {
	calls := wire.NewQueue(ctx, d, sink)
	if d.rings == nil {
		return d.lane.NewQueue(calls, sink)
	}
	q, err := d.rings.NewQueue(calls, sink)
	if err != nil {
		d.log.Warn("a connection gets no ring, so its data takes the rpc lane, which is slower", "plugin", d.program.Name, "reason", err)
	}
	return q
}

// Lane names the lane that reads and writes take now.
func (d *Disk) Lane() string {
	switch {
	case d.lane.InUse():
		return wire.LaneFile
	case d.rings != nil && d.rings.InUse():
		return wire.LaneRing
	}
	return wire.LaneRPC
}

// useLoan begins with the loan of a process that has begun to serve, if it has
// given one, and watches for its end. The caller holds mu.
func (d *Disk) useLoan(o *opened) {
	switch {
	case o.lent != nil:
		d.loan = o.lent
		d.lane.Use(o.lent)
		d.tasks.Go(func() { d.watchLoan(o) })
	case o.refused != nil:
		d.log.Warn("the backend's descriptor can't be used, so its data takes the rpc lane, which is slower", "plugin", d.program.Name, "reason", o.refused)
	}
}

// watchLoan gives the descriptor back when the plugin asks for it, or when it could
// not even ask.
func (d *Disk) watchLoan(o *opened) {
	switch err := o.lent.AwaitRevocation(d.ctx); {
	case d.ctx.Err() != nil, errors.Is(err, wire.ErrPluginGone):
		return // what follows ends the loan
	case err != nil:
		d.log.Warn("nobody would know if the backend wanted its descriptor back, so it gets it now: data takes the rpc lane, which is slower", "plugin", d.program.Name, "error", err)
	default:
		d.log.Info("the backend takes its descriptor back: from now on data takes the rpc lane", "plugin", d.program.Name)
	}
	d.lane.Drop(o.lent)
	if err := o.lent.GiveBack(d.ctx); err != nil && d.ctx.Err() == nil && !errors.Is(err, wire.ErrPluginGone) {
		d.log.Warn("the backend can't be told that its descriptor is not in use any more", "plugin", d.program.Name, "error", err)
	}
}

// endLoan ends the loan and does not wait. It returns the latest one, if there ever
// was one: who entered it before the plugin took it back may still be inside. The
// caller holds mu.
func (d *Disk) endLoan() *wire.Lent {
	d.lane.Use(nil)
	if d.loan != nil {
		d.loan.End()
	}
	return d.loan
}

// finishLoan ends the loan and waits for whoever is using it.
func (d *Disk) finishLoan(ctx context.Context) error {
	d.mu.Lock()
	lent := d.endLoan()
	d.mu.Unlock()
	if lent == nil {
		return nil
	}
	select {
	case <-lent.Ended():
		return nil
	default:
	}
	select {
	case <-lent.Ended():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("requests on the disk's descriptor do not end: %w", ctx.Err())
	}
}

// awaitLoan waits for whoever is still using the loan, which has ended: the
// backend's lock is free when nobody has the descriptor any more. Nothing under way
// there waits for anything but the device, so what does not end hangs in the kernel.
func (d *Disk) awaitLoan() error {
	ctx, cancel := context.WithTimeout(context.Background(), killWait)
	defer cancel()
	return d.finishLoan(ctx)
}
