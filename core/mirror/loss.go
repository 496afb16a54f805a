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

// lookForLoss flushes the source's disk, so that a loss which nobody has noticed yet
// comes to light while clients are not waiting. It wraps errUntold if there is one; a
// rehearsal, which gives nothing away, only tells.
func (t *transfer) lookForLoss() error {
	if time.Now().Before(t.nextLook) {
		return nil // the hold asks for what is known
	}
	t.m.become(StateFlushing, t)
	began := time.Now()
	slow := time.AfterFunc(slowFlush, func() {
		t.m.note(errSlowFlush)
		t.m.log.Warn("this server's own disk does not finish a flush, for which the hand-over waits", "since", slowFlush)
	})
	loss := t.export.LookForLoss(t.ctx)
	slow.Stop()
	t.nextLook = time.Now().Add(max(lookAgain, lookShare*time.Since(began)))
	if loss != nil && t.m.order.Rehearse {
		t.m.log.Warn("a migration would not hand the disk over yet", "reason", loss)
		return nil
	}
	return untold(loss)
}

const (
	// lookAgain is the least time between two flushes of the source's disk, and
	// lookShare how many times as long as the last flush it is. A write that fails is
	// tried when it is seconds old, unless memory is short.
	lookAgain = time.Second
	lookShare = 10
	// slowFlush is when an operator should look at the source's storage.
	slowFlush = 30 * time.Second
)

var errSlowFlush = fmt.Errorf("this server's own disk has not finished a flush within %v: look at its storage", slowFlush)

// untold wraps errUntold if a loss is known. A rehearsal gives nothing away.
func (t *transfer) untold() error {
	if t.m.order.Rehearse {
		return nil
	}
	return untold(t.export.PendingLoss())
}

func untold(loss error) error {
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
