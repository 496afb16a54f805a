// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"context"

	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// begin asks a sender whether a write or a zeroing may be carried out. For a client
// it may.
func (t *transmission) begin(off, length int64) error {
	if t.agreed.sender == nil {
		return nil
	}
	return t.agreed.sender.Begin(off, length)
}

// told tells a sender what became of a request to the queue.
func told(s Sender, r *wire.Request) {
	switch r.Op {
	case wire.OpWrite, wire.OpZero:
		s.End(r.Err)
	case wire.OpFlush:
		s.Flushed(r.Err)
	}
}

// migrationCommand returns what carries out a command that only senders have, nil
// for any other. ENTRUST looks like a READ of no bytes with FUA, which no client
// has a use for.
func (t *transmission) migrationCommand(r nbd.Request) func(context.Context) error {
	s := t.agreed.sender
	switch {
	case s == nil:
		return nil
	case r.Command == nbd.CmdPrepare:
		return s.Prepare
	case r.Command == nbd.CmdCommit:
		return s.Commit
	case t.agreed.oldstyle && nbd.IsEntrust(r):
		return s.Entrust
	}
	return nil
}

// onlySenders says whether a command is one of the migration's, which are answered
// with simple replies whatever was agreed on.
func onlySenders(c nbd.Command) bool { return c == nbd.CmdPrepare || c == nbd.CmdCommit }

// carryOut is the whole of a call that does not go through the queue.
func (c *call) carryOut(do func(context.Context) error) {
	if err := do(c.t.ctx); err != nil {
		c.fail(err)
	}
	c.finish()
}
