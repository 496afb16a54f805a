// SPDX-License-Identifier: GPL-3.0-or-later

package mirror

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/flexnbd/flexnbd/core/failpoint"
	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/core/owner"
)

// How long what follows the commit point may take that is only there to be tidy.
const (
	leaveLimit   = 5 * time.Second
	goodbyeLimit = 5 * time.Second
)

// handOver gives the disk away. It begins with the disk held and both sides equal.
//
// Up to the rename in depart the source may end the attempt, alone and at any moment,
// and the gate opens. From there on it never opens: whatever happens, and whoever
// starts this server again, the destination has the disk.
func (t *transfer) handOver(h *held) (*Outcome, error) {
	t.m.become(StatePreparing, t)
	if err := failpoint.Hit("source-before-prepare"); err != nil {
		return nil, err
	}
	if err := t.prepare(h.ctx); err != nil {
		return nil, err
	}
	if err := failpoint.Hit("source-prepare-answered"); err != nil {
		return nil, err
	}
	if t.remote.kind != remoteFlexnbd {
		// There was nobody to be prepared, so this is only what the rename needs.
		if err := t.m.source.config.Records.Intend(t.departure()); err != nil {
			return nil, fmt.Errorf("writing down who gets the disk: %w", err)
		}
	}
	if err := failpoint.Hit("source-before-rename"); err != nil {
		return nil, err
	}
	if err := t.depart(h); err != nil {
		return nil, err
	}
	outcome := t.m.summary(Migrated, time.Since(h.began))
	t.m.source.letGo(t.m.log)
	if t.remote.kind != remoteFlexnbd {
		t.goodbye()
	}
	return &outcome, nil
}

// prepare asks the destination to make everything durable and to be ready. When ctx
// ends, which opens the gate, the answer is not waited for.
func (t *transfer) prepare(ctx context.Context) error {
	switch t.remote.kind {
	case remoteFlexnbd:
		if err := t.remote.ask(ctx, nbd.Request{Command: nbd.CmdPrepare}); err != nil {
			return fmt.Errorf("the destination did not prepare itself: %w", err)
		}
		return nil
	case remoteOldstyle:
		return t.entrust(ctx)
	}
	return t.remote.flush(ctx) // see unconfirmed.go
}

// depart is the commit point: it durably renames .MIGRATED.next to .MIGRATED. After an
// error the gate is open, unless that wraps owner.ErrUncertain.
func (t *transfer) depart(h *held) error {
	if !h.commit() {
		return context.Cause(h.ctx)
	}
	err := t.m.source.config.Records.Depart()
	switch {
	case err == nil:
		t.m.paused(time.Since(h.began))
		t.m.becomeDeparted()
		return nil
	case errors.Is(err, owner.ErrUncertain):
		t.m.becomeDeparted()
		return err
	}
	h.takeBack()
	return fmt.Errorf("writing down that the disk is given away: %w", err)
}

// letGo makes the disk unreachable here: nobody can connect, nobody's request is
// carried out, and who is connected is cut off without a reply, so that clients that
// reconnect repeat their requests at the disk's new home. Failing to close the socket
// changes nothing: behind the gate there is no disk any more.
func (s *Source) letGo(log hclog.Logger) {
	if err := failpoint.Hit("source-committed"); err != nil {
		log.Error("failpoint", "error", err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), leaveLimit)
	defer cancel()
	if err := s.config.Leave(ctx); err != nil {
		log.Error("the listening socket was not closed; if the destination is to have its address, it has to wait for the end of this process", "error", err)
	}
	s.config.Export.Gate().Close()
	s.config.Cut()
}
