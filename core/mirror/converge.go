// SPDX-License-Identifier: GPL-3.0-or-later

package mirror

import (
	"context"
	"errors"
	"time"
)

const (
	// The hold begins when what is left takes this share of max-pause to send, and
	// not more than drainGoal: the rest of the time is for what the destination does
	// before it has prepared itself.
	drainShare = 4
	drainGoal  = 25 * time.Millisecond

	// firstPace is what a destination is assumed to take, in bytes per second, as
	// long as no pass has moved enough to tell, which is paceBytes.
	firstPace = 64 << 20
	paceBytes = 4 << 20

	// A pass has not shrunk what is left when more than three quarters remain. After
	// stallsAllowed of them the clients' writes go through.
	stallsAllowed = 2

	// A hold that was given up is tried again after firstBackOff, and twice as long
	// after each further one.
	firstBackOff = time.Second
	maxBackOff   = 30 * time.Second

	// flushAgain is how many bytes may be sent after a flush of the destination
	// before the next has to come ahead of the hold.
	flushAgain = 64 << 20
	// maxFlushes is how often in a row the destination is flushed because the last
	// time took too long.
	maxFlushes = 3
)

// converge copies pass after pass until little enough is left, and hands over.
//
// Passes shrink geometrically while clients write more slowly than the destination
// takes. When they stop shrinking, what clients write goes through, so that nothing
// new becomes dirty, and what is dirty goes at no less than half the cap.
func (t *transfer) converge() (*Outcome, error) {
	left, stalls := t.bitmap.Bytes(), 0
	for {
		if err := t.onePass(); err != nil {
			return nil, err
		}
		before := left
		left = t.bitmap.Bytes()
		if left > before/4*3 && left > 0 {
			stalls++
			t.copier.pacer.setFree(true) // there is somebody to catch up with
		}
		if stalls >= stallsAllowed {
			t.writeThrough(left > before/4*3)
		}
		if !t.fits(left) {
			continue
		}
		if ready, err := t.prepareHold(); err != nil {
			return nil, err
		} else if !ready {
			continue
		}
		outcome, err := t.hold()
		switch {
		case errors.Is(err, errUntold):
			t.awaitTelling(err)
		case errors.Is(err, errMissed):
			t.backOff(err)
			stalls++
		default:
			return outcome, err
		}
	}
}

// onePass is one pass and its last replies.
func (t *transfer) onePass() error {
	t.m.passes.Add(1)
	began, sent := time.Now(), t.speed.bytes()
	if err := t.copier.pass(t.ctx, true); err != nil {
		return err
	}
	if err := t.copier.settle(t.ctx); err != nil {
		return err
	}
	took, moved := time.Since(began), t.speed.bytes()-sent
	if moved >= paceBytes && took > 0 {
		t.pace = float64(moved) / took.Seconds()
	}
	if err := t.intend(); err != nil {
		return err
	}
	t.m.becomeConverging(t)
	return t.rest(moved)
}

// rest waits a moment when there is nothing to do but to wait for the next hold.
func (t *transfer) rest(moved int64) error {
	wait := min(time.Until(t.nextHold), throughTick)
	if moved > 0 || wait <= 0 {
		return nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-t.ctx.Done():
		return context.Cause(t.ctx)
	}
}

// fits says whether so much can be sent while clients wait. Under a cap the pace says
// nothing of what the destination takes without, as it does then; a hold that was given
// up does.
func (t *transfer) fits(left int64) bool {
	pace := t.pace
	if pace == 0 || t.limit.get() != 0 && t.misses == 0 {
		pace = max(pace, firstPace)
	}
	goal := min(t.m.order.MaxPause/drainShare, drainGoal)
	return float64(left) <= pace*goal.Seconds()
}

// writeThrough begins the write-through phase.
func (t *transfer) writeThrough(stalled bool) {
	if t.m.order.NoWriteThrough {
		t.m.converging.Store(!stalled)
		return
	}
	on := t.through.isOn()
	if !on {
		t.m.log.Info("clients write as fast as the destination takes: from now on their writes wait for it", "left", t.bitmap.Bytes())
		t.through.start(t.ctx)
		t.m.becomeConverging(t)
	}
	t.m.converging.Store(!on || !stalled)
}

// prepareHold looks for losses of the source, and makes the destination durable, so
// that little is left for that while clients wait. It returns false when the hold should not begin yet, since too much
// became dirty meanwhile, the one before was given up a short while ago, or clients
// have to be told of a loss first.
func (t *transfer) prepareHold() (ready bool, err error) {
	if time.Now().Before(t.nextHold) {
		return false, nil
	}
	if err := t.lookForLoss(); err != nil {
		t.awaitTelling(err)
		return false, nil
	}
	for try := 0; t.remote.canFlush() && try < maxFlushes; try++ {
		recent := t.flushing > 0 && t.speed.bytes()-t.flushed < flushAgain
		if recent && t.flushing < t.m.order.MaxPause/drainShare {
			break
		}
		if err := t.flush(); err != nil {
			return false, err
		}
	}
	t.m.becomeConverging(t)
	return t.fits(t.bitmap.Bytes()), nil
}

// flush makes durable what the destination has.
func (t *transfer) flush() error {
	t.m.become(StateFlushing, t)
	began := time.Now()
	t.flushed = t.speed.bytes()
	if err := t.remote.flush(t.ctx); err != nil {
		return err
	}
	t.flushing = max(time.Since(began), 1)
	return nil
}

// backOff goes on after a hold that was given up.
func (t *transfer) backOff(why error) {
	wait := min(firstBackOff<<min(t.misses, 10), maxBackOff)
	t.misses++
	t.nextHold = time.Now().Add(wait)
	t.m.note(why)
	t.m.becomeConverging(t)
	t.m.log.Warn("clients were held for as long as they may be, and were let go on; the migration tries again", "max-pause", t.m.order.MaxPause, "after", wait)
}
