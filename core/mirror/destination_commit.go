// SPDX-License-Identifier: GPL-3.0-or-later

package mirror

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/flexnbd/flexnbd/core/failpoint"
	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/core/owner"
	"github.com/flexnbd/flexnbd/core/session"
)

// committer is a connection that brings a COMMIT and nothing else. It implements
// [session.Sender].
type committer struct {
	destination *Destination
	id          owner.ID
	link        session.Link

	acknowledged atomic.Bool
}

// Commit implements [session.Sender]. When it returns nil this server owns the disk,
// or has owned it, durably.
func (c *committer) Commit(context.Context) error {
	if err := failpoint.Hit("destination-commit"); err != nil {
		return err
	}
	err := c.destination.commit(c.id)
	if err != nil {
		c.destination.log.Warn("COMMIT refused", "peer", c.link.Peer(), "migration", c.id, "error", err)
		return err
	}
	c.acknowledged.Store(true)
	c.destination.log.Info("COMMIT acknowledged", "peer", c.link.Peer(), "migration", c.id)
	return nil
}

// commit takes the disk over if it is prepared for id, or finds that it was taken
// over by id.
func (d *Destination) commit(id owner.ID) error {
	older, err := d.commitLocked(id)
	cut(older)
	return err
}

// commitLocked is commit without the cutting of connections, which waits for
// nobody: older ones are fenced from here on, and have nothing in hand.
func (d *Destination) commitLocked(id owner.ID) ([]session.Link, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case id.IsZero():
		return nil, refused("COMMIT of no migration")
	case d.phase == phaseUncertain:
		return nil, fmt.Errorf("this server may own the disk, but perhaps not durably: %w", nbd.EIO)
	case d.phase == phaseWaiting && d.prepared() == id:
		older := d.fence(errTakeOver)
		if err := d.takeOver(id); err != nil {
			return older, err
		}
		return older, failpoint.Hit("destination-owned")
	case d.received() == id:
		return nil, nil
	}
	return nil, refused("this server is not prepared for migration %v, and did not take the disk over by it", id)
}

// Begin implements [session.Sender].
func (c *committer) Begin(int64, int64) error { return c.only() }

// End implements [session.Sender].
func (c *committer) End(error) { panic("mirror: a write has ended that never began") }

// Flushed implements [session.Sender].
func (c *committer) Flushed(error) {}

// Prepare implements [session.Sender].
func (c *committer) Prepare(context.Context) error { return c.only() }

// Entrust implements [session.Sender].
func (c *committer) Entrust(context.Context) error { return c.only() }

func (c *committer) only() error {
	return fmt.Errorf("this connection was opened for COMMIT: %w", nbd.EPERM)
}

// Left implements [session.Sender].
func (c *committer) Left(bool) {
	if !c.acknowledged.Load() {
		return
	}
	// Nothing is left to fail here; the point is there to kill or stop at.
	_ = failpoint.Hit("destination-acknowledged")
}

// Errors of [Destination.Promote].
var (
	ErrNotPrepared     = errors.New("not prepared")
	ErrWrongID         = errors.New("wrong id")
	ErrSourceConnected = errors.New("the source is still connected; stop it for good first")
)

// Promote takes the disk over without its source, for an operator who has made sure
// that the source never serves it again. id is the migration that this server is
// prepared for. Promoting by an id that the disk was taken over by changes nothing.
//
// The error may be [ErrNotPrepared], [ErrWrongID], [ErrSourceConnected], since a
// source that is connected has not been stopped, or what kept the records from being
// written.
func (d *Destination) Promote(id owner.ID) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.phase == phaseOwner && !id.IsZero() && d.received() == id {
		return nil
	}
	switch prepared := d.prepared(); {
	case d.phase != phaseWaiting || prepared.IsZero():
		return ErrNotPrepared
	case prepared != id:
		return ErrWrongID
	}
	if s := d.connected(); s != nil {
		return fmt.Errorf("%w (%s)", ErrSourceConnected, s.link.Peer())
	}
	d.log.Warn("an operator promotes this server to owner of the disk; its source must never serve it again", "migration", id)
	d.fence(errTakeOver) // who is left has been cut
	return d.takeOver(id)
}

// connected returns a sender that is connected and was not cut. The caller holds
// mu.
func (d *Destination) connected() *sender {
	for s := range d.live {
		if !s.cut {
			return s
		}
	}
	return nil
}
