// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/wire"
	"github.com/flexnbd/flexnbd/sdk/wire/ringlane"
)

// rings is a disk's process as its ring lane sees it.
type rings struct {
	wire.RingOpener
	disk   *Disk
	opened *opened
}

var _ ringlane.Process = (*rings)(nil)

// OpenRing implements [ringlane.Process].
func (r *rings) OpenRing(ctx context.Context, memory *os.File, size int) (*os.File, error) {
	socket, err := r.RingOpener.OpenRing(ctx, memory, size)
	return socket, r.opened.process.named(err)
}

// Unopened implements [ringlane.Process].
func (r *rings) Unopened(why error) {
	r.disk.log.Warn("a connection gets no ring, so its data takes the rpc lane, which is slower", "plugin", r.disk.program.Name, "reason", why)
}

// Broke implements [ringlane.Process].
func (r *rings) Broke(how error) {
	r.disk.distrust(r.opened, fmt.Errorf("its backend %s has broken the rules of the ring lane, so that nothing it says can be believed: %w", r.disk.program.Name, how))
}

// Ended implements [ringlane.Process].
func (r *rings) Ended() { r.disk.becomeRestarting(r.opened) }

// Silent implements [ringlane.Process]. Once may be chance.
func (r *rings) Silent() {
	d := r.disk
	d.mu.Lock()
	again := r.opened.afterSilent
	r.opened.silent = true
	d.mu.Unlock()
	if again {
		d.distrust(r.opened, fmt.Errorf("its backend %s does not read its rings, and neither did the process before it", d.program.Name))
		return
	}
	if d.becomeRestarting(r.opened) {
		d.log.Error("plugin does not read its rings and is given up", "plugin", d.program.Name, "plugin_pid", r.opened.process.PID(), "after", hangTimeout)
		_ = r.opened.process.stopNow() // whoever replaces it asks for the error again
	}
}

// distrust gives the disk up as soon as the process has been ended.
func (d *Disk) distrust(o *opened, why error) {
	d.mu.Lock()
	if o.distrusted == nil {
		o.distrusted = why
	}
	d.mu.Unlock()
	if d.becomeRestarting(o) {
		_ = o.process.stopNow() // whoever gives the disk up asks for the error again
	}
}

// whyNone returns why there is to be no other process after o, nil if there may be.
func (d *Disk) whyNone(o *opened) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return o.distrusted
}

// ringCalls carries requests out that a ring did not.
type ringCalls struct{ disk *Disk }

var _ ringlane.Disk = ringCalls{}

// Call implements [ringlane.Disk].
func (c ringCalls) Call(r *wire.Request) error {
	return c.disk.call(context.Background(), c.disk.repeatable(r), carryOut(r))
}

// Repeat implements [ringlane.Disk].
func (c ringCalls) Repeat(p ringlane.Process, r *wire.Request) error {
	o := p.(*rings).opened
	c.disk.becomeRestarting(o)
	<-o.gone
	if !c.disk.repeatable(r) {
		return o.process.named(fmt.Errorf("it ended during the request: %w", wire.ErrPluginGone))
	}
	return c.Call(r)
}

// repeatable says whether a request may be carried out twice.
func (d *Disk) repeatable(r *wire.Request) bool {
	return r.Op == wire.OpRead || d.replayable(r.Flags)
}

// carryOut makes a call of a request.
func carryOut(r *wire.Request) func(store.Store) error {
	return func(s store.Store) error {
		ctx := context.Background() // there is always an answer: see remoteStore
		switch r.Op {
		case wire.OpRead:
			return s.ReadAt(ctx, r.Data.Bytes, r.Offset)
		case wire.OpWrite:
			return s.WriteAt(ctx, r.Data.Bytes, r.Offset, r.Flags)
		case wire.OpZero:
			return s.PunchHole(ctx, r.Offset, r.Length, r.Flags)
		}
		return errors.New("no request for a ring")
	}
}

// makeRings makes the ring lane, if that is what the first process has chosen.
func (d *Disk) makeRings(first *opened) {
	if first.rings != nil {
		lane, every, limit := ringlane.New(&d.ranges, ringCalls{d}), beat, hangTimeout
		d.rings = lane
		d.tasks.Go(func() { lane.Watch(d.ctx, every, limit) })
	}
}

// useRings opens rings to a process that has begun to serve. The caller holds mu.
func (d *Disk) useRings(o *opened) {
	if d.rings != nil && o.rings != nil {
		o.asRings = &rings{RingOpener: o.rings, disk: d, opened: o}
		d.rings.Use(o.asRings)
	}
}

// finishRings ends the rings of a process that has ended, and takes in what it has
// completed: from then on nothing is heard of it.
func (d *Disk) finishRings(o *opened) {
	d.mu.Lock()
	p := o.asRings
	d.mu.Unlock()
	if p != nil {
		d.rings.Finish(p)
	}
}

// leaveRings opens no more rings, and sends nothing over those that are open. The caller
// holds mu.
func (d *Disk) leaveRings() {
	if d.rings != nil {
		d.rings.Use(nil)
	}
}
