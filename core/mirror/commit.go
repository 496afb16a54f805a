// SPDX-License-Identifier: GPL-3.0-or-later

package mirror

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/flexnbd/flexnbd/core/client"
	"github.com/flexnbd/flexnbd/core/failpoint"
	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/core/owner"
	"github.com/flexnbd/flexnbd/sdk/transport"
)

// COMMIT is repeated every commitSoon for the first commitEager, since clients wait,
// and then every commitLater, for ever. What goes wrong is logged no more often than
// every complainEvery.
const (
	commitSoon    = 50 * time.Millisecond
	commitEager   = time.Second
	commitLater   = time.Second
	complainEvery = 5 * time.Second
)

// errNotAsked: what answered at the address knows nothing of migrations.
var errNotAsked = errors.New("it is no flexnbd, or one that does not wait for a migration")

// repeatCommit tells the destination that the disk is its own, until it has
// acknowledged that. It returns false when ctx ends before. A refusal ends nothing:
// the address may be somebody else's for now.
func (m *mirroring) repeatCommit(ctx context.Context, d owner.Departure) bool {
	began := time.Now()
	var complained time.Time
	for {
		for _, to := range d.To {
			err := m.source.commit(ctx, transport.Address(to), m.order.Bind, d.ID)
			if err == nil {
				return true
			}
			if ctx.Err() != nil {
				return false
			}
			m.note(err)
			if time.Since(complained) > complainEvery {
				complained = time.Now()
				m.log.Error("the disk was given away, but its new owner has not acknowledged that; this server serves nothing and goes on asking", "destination", to, "id", d.ID, "error", err)
			}
		}
		pause := commitSoon
		if time.Since(began) > commitEager {
			pause = commitLater
		}
		if !sleep(ctx, pause) {
			return false
		}
	}
}

// commit asks once, on a connection of its own: whatever an older one still carries
// can't be mixed up with it.
func (s *Source) commit(ctx context.Context, to, from transport.Address, id owner.ID) error {
	if err := failpoint.Hit("source-before-commit"); err != nil {
		return err
	}
	hello := s.hello(id, owner.ID{})
	hello.Purpose = nbd.MigrationCommit
	conn, err := s.dial(ctx, to, from)
	if err != nil {
		return err
	}
	c, err := client.Connect(ctx, conn, client.Options{HandshakeTimeout: s.patience.reply, Migration: &hello})
	if err != nil {
		return err
	}
	if _, answered := c.Migration(); !answered {
		hangUp(c)
		return errNotAsked
	}
	line := s.patience.pipeline(c)
	defer func() { _ = line.Close() }()
	done := make(chan error, 1)
	line.Send(&client.Call{Request: nbd.Request{Command: nbd.CmdCommit}, Done: func(err error) { done <- err }})
	if err := failpoint.Hit("source-commit-sent"); err != nil {
		return err
	}
	select {
	case err = <-done:
	case <-ctx.Done():
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("COMMIT: %w", err)
	}
	if err := failpoint.Hit("source-commit-answered"); err != nil {
		return err
	}
	goodbye, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_ = line.Disconnect(goodbye)
	return nil
}

// sleep waits, and returns false when ctx ends before the time is over.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
