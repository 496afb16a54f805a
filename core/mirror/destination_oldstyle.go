// SPDX-License-Identifier: GPL-3.0-or-later

package mirror

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/core/owner"
	"github.com/flexnbd/flexnbd/core/session"
)

// Oldstyle implements [session.Migration]: a connection to a server that waits for
// a disk from flexnbd 0.x is the sender, one at a time. Nobody can be fenced here,
// since nothing tells a source from another: it comes again until the older
// connection has ended.
func (d *Destination) Oldstyle(_ context.Context, link session.Link) (session.Sender, error) {
	home := d.home()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.phase != phaseWaiting {
		if refusal := d.guest(home); refusal != "" {
			return nil, errors.New(refusal)
		}
		return nil, nil
	}
	prepared := d.prepared()
	switch {
	case d.config.Handshake != session.Oldstyle:
		return nil, errors.New("this server waits for a sender with the newstyle handshake")
	case len(d.live) > 0:
		return nil, errors.New("another sender is connected")
	case !prepared.IsZero() && prepared != d.entrusted:
		return nil, fmt.Errorf("this server is prepared for migration %v; if its source is gone for good, "+
			"make this server the owner with flexnbd promote %v", prepared, prepared)
	}
	a := newAttempt(owner.NewID(), owner.ID{}, prepared)
	a.covered = newCoverage(d.config.Export.Size())
	close(a.ready)
	s := &sender{destination: d, link: link, attempt: a}
	d.attempt = a
	d.live[s] = struct{}{}
	d.lastSender = time.Now()
	d.log.Info("an oldstyle sender has connected", "peer", link.Peer(), "migration", a.id)
	return s, nil
}

// Entrust implements [session.Sender]. It stands for PREPARE. The source may end when
// it is acknowledged, so what it leaves behind is durable, and an operator can
// promote this server if no goodbye follows.
func (s *sender) Entrust(ctx context.Context) error {
	d, a := s.destination, s.attempt
	if a.covered == nil {
		return fmt.Errorf("ENTRUST on a connection with the newstyle handshake: %w", nbd.EINVAL)
	}
	if err := d.prepare(ctx, a); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.entrusted = a.id
	return nil
}

// goodbye follows the DISC of an oldstyle sender. It takes over if the disk was
// entrusted, or if every byte of it arrived and nothing failed; anything else is a
// failed attempt.
func (d *Destination) goodbye(a *attempt) {
	err := d.becomePrepared(a)
	if err == nil {
		err = d.commit(a.id)
	}
	if err != nil {
		d.log.Warn("an oldstyle sender said goodbye, but its disk can't be taken over", "migration", a.id, "error", err)
	}
}

// becomePrepared prepares an attempt that was not entrusted, if it is complete.
func (d *Destination) becomePrepared(a *attempt) error {
	d.mu.Lock()
	prepared, ending, covered := a.prepared, a.ending, a.covered.complete()
	d.mu.Unlock()
	switch {
	case ending != nil:
		return ending
	case prepared:
		return nil
	case !covered:
		return fmt.Errorf("it did not entrust the disk, and sent only %s of it", a.covered)
	}
	return d.prepare(d.ctx, a)
}

// warnOfEntrusted tells an operator what nobody else will ever settle: the source of
// an attempt that was entrusted may have ended, or may not have heard of it.
func (d *Destination) warnOfEntrusted(a *attempt) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if a.prepared && d.phase == phaseWaiting {
		d.log.Warn("the disk was entrusted, but no goodbye followed: if its source has ended, run flexnbd promote with this id; "+
			"if it has not, it will send the disk again", "migration", a.id)
	}
}
