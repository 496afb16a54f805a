// SPDX-License-Identifier: GPL-3.0-or-later

package mirror

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/flexnbd/flexnbd/core/export"
	"github.com/flexnbd/flexnbd/core/failpoint"
)

// errMissed: the hold was given up before the destination was asked to prepare itself.
var errMissed = errors.New("the hold was given up")

// held is a gate that is held, for a time. Whatever the migration waits for, the gate
// opens when that is over, or when the attempt ends: there is a timer for that which
// asks nobody. Only commit keeps it shut.
type held struct {
	gate  *export.Gate
	began time.Time
	// ctx ends when the gate opens.
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	spare  func() bool // takes the watch of the attempt's end off

	mu    sync.Mutex // a leaf; the gate's own lock is taken with it held
	state heldState
}

type heldState int

const (
	heldShut      heldState = iota // the timer runs
	heldReleased                   // the gate is open again
	heldCommitted                  // the gate will not open any more
)

// errDeadline is why the gate opens.
type errDeadline time.Duration

func (e errDeadline) Error() string {
	return fmt.Sprintf("clients would have been held for longer than %v", time.Duration(e))
}

// hold shuts a gate for at most a time, and for no longer than ctx.
func holdGate(ctx context.Context, gate *export.Gate, most time.Duration) *held {
	h := &held{gate: gate, began: time.Now()}
	h.ctx, h.cancel = context.WithCancelCause(ctx)
	gate.Hold()
	h.mu.Lock() // so that the timer finds itself
	defer h.mu.Unlock()
	h.timer = time.AfterFunc(most, func() { h.release(errDeadline(most)) })
	h.spare = context.AfterFunc(ctx, func() { h.release(context.Cause(ctx)) })
	return h
}

// release opens the gate, unless commit came first.
func (h *held) release(why error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.state != heldShut {
		return
	}
	h.state = heldReleased
	h.gate.Open()
	h.cancel(why)
	h.timer.Stop()
	h.spare()
}

// commit keeps the gate shut from now on. It returns false when it is open already, or
// about to be: ctx says why.
func (h *held) commit() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	// What ends the attempt ends ctx at once, and opens the gate a moment later.
	if h.state != heldShut || h.ctx.Err() != nil {
		return false
	}
	h.state = heldCommitted
	h.timer.Stop()
	h.spare()
	return true
}

// takeBack opens the gate after commit: nothing was given away.
func (h *held) takeBack() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.state == heldCommitted {
		h.state = heldReleased
		h.gate.Open()
	}
}

// hold stops the disk, sends the last dirty ranges and hands over. An error that wraps
// errMissed or errUntold came before the destination was asked for anything, and the
// attempt may go on. After any error but owner.ErrUncertain the gate is open.
func (t *transfer) hold() (*Outcome, error) {
	t.m.become(StateHolding, t)
	h := holdGate(t.ctx, t.export.Gate(), t.m.order.MaxPause)
	defer h.release(errStopped)
	err := t.drain(h.ctx)
	t.m.paused(time.Since(h.began))
	var late errDeadline
	switch cause := context.Cause(h.ctx); {
	case errors.As(cause, &late):
		return nil, fmt.Errorf("%w: %w", errMissed, cause)
	case cause != nil: // the attempt has ended, even if the drain did not notice
		return nil, cause
	case err != nil:
		return nil, err
	case t.m.order.Rehearse:
		return t.rehearsed(h)
	case time.Since(h.began) > t.m.order.MaxPause*3/4:
		// Once PREPARE is sent there is no way back but to copy all of it again.
		return nil, fmt.Errorf("%w: no time was left for the destination to prepare itself", errMissed)
	}
	if err := t.untold(); err != nil {
		return nil, err
	}
	return t.handOver(h)
}

// drain waits for those inside the gate and sends what is left. Nothing is in flight
// then, and both sides have the same bytes.
func (t *transfer) drain(ctx context.Context) error {
	// Clients inside that wait for the destination have waited enough, and are what
	// the gate would wait for.
	t.through.end()
	if err := failpoint.Hit("source-held"); err != nil {
		return err
	}
	if err := t.export.Gate().Drain(ctx); err != nil {
		return err
	}
	for t.bitmap.Bytes() > 0 {
		if err := t.copier.pass(ctx, false); err != nil {
			return err
		}
	}
	if err := t.copier.settle(ctx); err != nil {
		return err
	}
	if err := t.through.settle(ctx); err != nil {
		return err
	}
	return failpoint.Hit("source-drained")
}

// rehearsed ends a rehearsal. The destination is asked to flush, as it would have to
// in order to prepare itself, so that the pause is one that can be believed.
func (t *transfer) rehearsed(h *held) (*Outcome, error) {
	if err := t.remote.flush(h.ctx); err != nil {
		var late errDeadline
		if errors.As(err, &late) {
			return nil, fmt.Errorf("%w: %w", errMissed, err)
		}
		return nil, err
	}
	pause := time.Since(h.began)
	h.release(errStopped)
	t.m.paused(pause)
	// Not t.ctx: it ends with the first connection that says goodbye.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.ctx), goodbyeLimit)
	defer cancel()
	_ = t.remote.leave(ctx) // whoever does not hear it sees the connection end
	outcome := t.m.summary(Rehearsed, pause)
	return &outcome, nil
}
