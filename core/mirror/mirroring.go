// SPDX-License-Identifier: GPL-3.0-or-later

package mirror

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/flexnbd/flexnbd/core/failpoint"
	"github.com/flexnbd/flexnbd/core/owner"
)

// repeatComplaint is how often the same failure of attempt after attempt is logged.
const repeatComplaint = time.Minute

// mirroring is one migration, from its order to its end: attempt after attempt until
// one gives the disk away.
type mirroring struct {
	source *Source
	order  Order
	log    hclog.Logger
	limit  *limit
	began  time.Time

	// ctx ends with Break, and with Close. What follows the commit point does not
	// look at it.
	ctx    context.Context
	cancel context.CancelCauseFunc

	done   chan struct{} // closed at the end, when result and err stand
	result Outcome
	err    error

	departed     chan struct{} // closed at the commit point
	departedOnce sync.Once

	complaint  string // the last failure that was logged; the goroutine's own
	complained time.Time
	replaces   owner.ID // what the hello of this attempt names; the goroutine's own
	fewer      bool     // it was logged that there are fewer connections; the goroutine's own

	passes     atomic.Int64
	late       atomic.Int64 // see SourceStatus.LateWrites
	converging atomic.Bool

	mu        sync.Mutex // a leaf
	state     SourceState
	transfer  *transfer // the attempt that runs; nil: none does
	speed     *speed    // of this attempt
	attempt   int
	pauseLast time.Duration
	lastError error
	ended     time.Time
}

func newMirroring(s *Source, order Order) *mirroring {
	m := &mirroring{
		source: s, order: order, log: s.config.Log, limit: newLimit(order.MaxSpeed), began: time.Now(),
		done: make(chan struct{}), departed: make(chan struct{}),
		state: StateConnecting, speed: newSpeed(time.Now()),
	}
	m.converging.Store(true)
	m.ctx, m.cancel = context.WithCancelCause(s.ctx)
	return m
}

// reach begins an attempt: it makes the first connection.
func (m *mirroring) reach(ctx context.Context, id owner.ID) (*remote, error) {
	m.mu.Lock()
	m.state, m.speed = StateConnecting, newSpeed(time.Now())
	m.attempt++
	m.mu.Unlock()
	m.passes.Store(0)
	m.converging.Store(true)
	m.replaces = owner.ID{}
	if records := m.source.config.Records; records != nil {
		if next := records.State().Next; next != nil {
			m.replaces = next.ID
		}
	}
	return m.source.reach(ctx, &m.order, m.source.hello(id, m.replaces))
}

// run is the migration, from the first connection on.
func (m *mirroring) run(r *remote, id owner.ID) {
	for {
		t := newTransfer(m, id, r)
		m.begin(t)
		outcome, err := t.run()
		switch {
		case err == nil && outcome.Kind == Migrated:
			m.conclude(m.source.ctx, t.departure(), *outcome)
			return
		case err == nil:
			m.log.Info("the rehearsal is over, clients go on here", "bytes", outcome.Bytes, "passes", outcome.Passes, "pause", outcome.Pause, "duration", outcome.Duration)
			m.finish(*outcome, nil)
			return
		case errors.Is(err, owner.ErrUncertain):
			m.becomeUncertain(err)
			return
		case m.ctx.Err() != nil:
			m.stopped()
			return
		}
		m.fails(err)
		if r, id = m.again(); r == nil {
			m.stopped()
			return
		}
	}
}

// again waits and connects until that succeeds, or returns nil when the migration is
// stopped.
func (m *mirroring) again() (*remote, owner.ID) {
	for {
		m.become(StateRetrying, nil)
		if !sleep(m.ctx, m.source.patience.retry) {
			return nil, owner.ID{}
		}
		id := owner.NewID()
		r, err := m.reach(m.ctx, id)
		switch {
		case err == nil:
			return r, id
		case m.ctx.Err() != nil:
			return nil, owner.ID{}
		}
		m.fails(err)
	}
}

// isNews keeps an error for the status and says whether to log it. One like the one
// before is not logged again for a while: there may be thousands.
func (m *mirroring) isNews(err error) bool {
	m.note(err)
	text := err.Error()
	if text == m.complaint && time.Since(m.complained) <= repeatComplaint {
		return false
	}
	m.complaint, m.complained = text, time.Now()
	return true
}

// fails is told of every attempt that has failed.
func (m *mirroring) fails(err error) {
	if !m.isNews(err) {
		return
	}
	m.log.Warn("an attempt to migrate failed; clients go on here, and another attempt follows", "destination", m.order.To, "after", m.source.patience.retry, "error", err)
}

func (m *mirroring) stopped() {
	m.log.Info("the migration was stopped; clients go on here", "destination", m.order.To)
	m.finish(m.summary(Stopped, 0), nil)
}

// resume is what is left of a migration whose record was found at the start.
func (m *mirroring) resume(ctx context.Context, d owner.Departure) {
	defer context.AfterFunc(ctx, func() { m.cancel(context.Cause(ctx)) })()
	m.log.Warn("this disk was given away, and its new owner has not acknowledged that yet; it is asked to, and nothing is served", "id", d.ID)
	m.conclude(m.ctx, d, m.summary(Migrated, 0))
}

// conclude is what follows the commit point: COMMIT until acknowledged, the note of
// that, and the image's removal.
func (m *mirroring) conclude(ctx context.Context, d owner.Departure, outcome Outcome) {
	outcome.ID, outcome.Unconfirmed = d.ID, d.Unconfirmed
	if !d.Unconfirmed {
		m.become(StateCommitting, nil)
		if !m.repeatCommit(ctx, d) {
			m.log.Warn("stopped before the disk's new owner has acknowledged; the record stays, and the next start goes on asking", "id", d.ID)
			outcome.Leftover = errUnacknowledged
			m.finish(outcome, nil)
			return
		}
	}
	outcome.Leftover = m.clearUp(ctx, d)
	outcome.Duration = time.Since(m.began)
	m.log.Info("the disk was given away", "destination", m.order.To, "id", d.ID, "bytes", outcome.Bytes, "pause", outcome.Pause, "duration", outcome.Duration)
	m.become(StateDeparted, nil)
	close(m.source.departed)
	m.finish(outcome, nil)
}

var errUnacknowledged = errors.New("the disk's new owner has not acknowledged that it has it")

// clearUp notes the acknowledgement and removes the image. Each step is durable before
// the next: an image without its record would be served as if it were the right one.
func (m *mirroring) clearUp(ctx context.Context, d owner.Departure) error {
	config := &m.source.config
	if !d.Unconfirmed {
		if err := config.Records.Acknowledge(); err != nil {
			return m.leftover("the acknowledgement could not be noted, so that the next start asks for it again", err)
		}
		if err := failpoint.Hit("source-acknowledged"); err != nil {
			return m.leftover("failpoint", err)
		}
	}
	switch {
	case !d.Unlink:
		return nil
	case d.Unconfirmed:
		// Start refuses such an order; whoever asks for it all the same keeps the
		// only copy that is known to be whole.
		return m.leftover("the image was not removed", errors.New("nobody has confirmed that the destination has the disk; look there, then remove the image and its record by hand"))
	}
	if config.Unlink == nil {
		return m.leftover("the image was not removed", errors.New("the backend does not say how"))
	}
	err := failpoint.Hit("source-before-unlink")
	if err == nil {
		err = config.Unlink(ctx)
	}
	if err == nil {
		err = failpoint.Hit("source-unlinked")
	}
	if err != nil {
		return m.leftover("the image was not removed; it is not the right one any more, and its record says so", err)
	}
	if err := config.Records.Forget(); err != nil {
		return m.leftover("the image was removed, its record was not", err)
	}
	return nil
}

func (m *mirroring) leftover(what string, err error) error {
	m.log.Error("the disk was given away, but "+what, "error", err)
	return fmt.Errorf("%s: %w", what, err)
}

// breakOff is [Source.Break].
func (m *mirroring) breakOff(ctx context.Context) error {
	if m.isOver() && !m.hasDeparted() {
		return ErrNotMirroring
	}
	if !m.hasDeparted() {
		m.cancel(errStopped)
	}
	select {
	case <-m.departed: // it may have been under way
		return ErrCompleted
	case <-m.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	switch {
	case m.hasDeparted():
		return ErrCompleted
	case m.result.Kind == Rehearsed:
		return ErrNotMirroring
	}
	return nil
}

// finish ends the migration.
func (m *mirroring) finish(outcome Outcome, err error) {
	m.cancel(errStopped)
	m.result, m.err = outcome, err
	m.mu.Lock()
	m.transfer = nil
	m.ended = time.Now()
	m.mu.Unlock()
	close(m.done)
}

func (m *mirroring) isOver() bool { return isClosed(m.done) }

func (m *mirroring) hasDeparted() bool { return isClosed(m.departed) }

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
