// SPDX-License-Identifier: GPL-3.0-or-later

package mirror

import (
	"context"
	"fmt"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// A destination that is any other NBD server, with --unconfirmed, is a disk that gets
// a copy, and nobody takes over there: who serves it, and when, is the operator's
// business, and so is what it served before. All that can be done for it is to flush
// it while the disk is held, and not to serve this copy any more.

// flushUnconfirmed makes such a destination durable. One that does not offer FLUSH
// promises no more than its replies.
func (t *transfer) flushUnconfirmed(ctx context.Context) error {
	if !t.remote.canFlush() {
		return nil
	}
	if err := t.remote.ask(ctx, nbd.Request{Command: nbd.CmdFlush}); err != nil {
		return fmt.Errorf("flushing the destination: %w", err)
	}
	return nil
}
