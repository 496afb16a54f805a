// SPDX-License-Identifier: GPL-3.0-or-later

package mirror

import (
	"context"
	"fmt"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// A destination with the oldstyle handshake, flexnbd 0.x or listen --handshake
// oldstyle, has no extents, no zeroing and no records. It gets every byte of the disk
// in a WRITE, since it may count them; ENTRUST, which it answers when it is ready; and
// DISC, upon which it takes over. Between its answer and DISC the source writes its
// record: a crash before leaves the source the owner, and the destination with a
// connection that ended without DISC, which it does not take for a hand-over. If DISC
// is lost, nobody serves until an operator decides.

// entrust asks a destination with the oldstyle handshake to get ready.
func (t *transfer) entrust(ctx context.Context) error {
	if err := t.remote.ask(ctx, nbd.EntrustRequest(0)); err != nil {
		return fmt.Errorf("the destination did not accept ENTRUST: %w", err)
	}
	return nil
}

// goodbye is the DISC that makes such a destination take over. There is no reply to
// wait for.
func (t *transfer) goodbye() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.m.source.ctx), goodbyeLimit)
	defer cancel()
	if err := t.remote.leave(ctx); err != nil {
		t.m.log.Error("the disk was given away, but the goodbye may not have arrived: look whether the destination serves it, and if it does not, start it by hand", "destination", t.m.order.To, "error", err)
	}
}
