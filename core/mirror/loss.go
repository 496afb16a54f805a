// SPDX-License-Identifier: GPL-3.0-or-later

package mirror

import (
	"errors"
	"fmt"
	"time"
)

// errUntold: acknowledged writes are lost, and clients have not been told
// ([github.com/flexnbd/flexnbd/core/export.Export.PendingLoss]). What the source's
// disk owes them is not known at the destination, where their next flush would
// succeed.
//
// A migration does not start then. One that is under way goes on copying, and does not
// hold the disk before they know: a client is told as soon as it flushes, and a copy of
// all of the disk once more would gain nothing.
var errUntold = errors.New("the disk is not given away, since at its new home clients would take writes for durable that are lost")

// untold wraps errUntold if that holds. A rehearsal gives nothing away.
func (t *transfer) untold() error {
	if t.m.order.Rehearse {
		return nil
	}
	return t.m.source.untold()
}

func (s *Source) untold() error {
	loss := s.config.Export.PendingLoss()
	if loss == nil {
		return nil
	}
	return fmt.Errorf("%w: %w. Let each client flush, which fails and so tells it, or disconnect it; if none is connected, connect one and let it flush. Or stop this server, repair the storage or copy the disk, and start again", errUntold, loss)
}

// awaitTelling goes on copying until it is time to look again.
func (t *transfer) awaitTelling(why error) {
	wait := t.m.source.patience.retry
	t.nextHold = time.Now().Add(wait)
	t.m.becomeConverging(t)
	if t.m.isNews(why) {
		t.m.log.Warn("the disk cannot be given away yet; clients go on here, and it is tried again", "every", wait, "error", why)
	}
}
