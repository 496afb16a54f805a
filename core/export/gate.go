// SPDX-License-Identifier: GPL-3.0-or-later

package export

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
)

// Errors of a gate.
var (
	// ErrGateClosed is what Enter returns once the gate is closed for good.
	ErrGateClosed = errors.New("the gate is closed for good")
	// ErrGateOpen is what Drain returns when the gate is open, or opens while
	// it waits: requests keep coming, so there is no end to wait for.
	ErrGateOpen = errors.New("the gate is open, so it cannot be drained")
)

// Gate is what every request to a disk passes on its way in and on its way out.
// A migration uses it to stop the disk for a moment, or for ever.
//
//		           Hold              Close
//		   open ----------> held ------------> closed
//		    |  <----------                       ^
//		    |      Open                          |
//		    +------------------------------------+
//		                   Close
//
//	  - open: Enter lets everybody in at once.
//	  - held: Enter waits. Who is inside leaves in their own time; Drain waits for
//	    the last of them.
//	  - closed: Enter fails, also for those who waited. Nothing leads back: a
//	    disk that was given away is never served again.
//
// A call that asks for the state the gate is in, and Open of a closed gate, do
// nothing. All methods may be called from many goroutines. The zero value is an
// open gate.
type Gate struct {
	// word counts those inside, in steps of gateOne, above the state in its
	// low bits. One atomic addition enters and learns the state: while the
	// gate is open nothing else is touched. One who finds it not open goes
	// out again, so that the count may be too high for a moment, never too
	// low.
	word atomic.Int64

	mu      sync.Mutex    // held by whoever changes the state or is about to wait
	changed chan struct{} // closed at the next change of state; nil if nobody waits for it
	empty   chan struct{} // closed when the last one leaves; nil if nobody waits for it
}

type gateState int64

const (
	gateOpen gateState = iota
	gateHeld
	gateClosed

	gateStateMask = 3
	gateOne       = gateStateMask + 1
)

// Enter passes the gate, waiting while it is held. After nil the caller owes a
// Leave. The errors are ErrGateClosed and the context's.
func (g *Gate) Enter(ctx context.Context) error { return g.EnterN(ctx, 1) }

// EnterN passes the gate with n requests at once: all or none.
func (g *Gate) EnterN(ctx context.Context, n int) error {
	for !g.tryEnter(n) {
		if err := g.wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Leave ends one stay. It does not wait.
func (g *Gate) Leave() { g.LeaveN(1) }

// LeaveN ends n stays.
func (g *Gate) LeaveN(n int) {
	word := g.word.Add(-int64(n) * gateOne)
	if word < 0 {
		panic("export: more left the gate than had entered")
	}
	if word&gateStateMask != int64(gateOpen) && word/gateOne == 0 {
		g.mu.Lock()
		defer g.mu.Unlock()
		wake(&g.empty)
	}
}

// Busy says whether anybody is inside at this moment.
func (g *Gate) Busy() bool { return g.word.Load() >= gateOne }

// Hold makes new entries wait from now on.
func (g *Gate) Hold() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.state() == gateOpen {
		g.becomeHeld()
	}
}

// Drain waits until those inside have left. The gate has to be held or closed:
// ErrGateOpen if not. After nil nobody is inside until the gate opens.
func (g *Gate) Drain(ctx context.Context) error {
	for {
		left, err := g.inside()
		if err != nil || left == nil {
			return err
		}
		select {
		case <-left:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Open lets those in who wait, and whoever comes.
func (g *Gate) Open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.state() == gateHeld {
		g.becomeOpen()
	}
}

// Close ends the gate for good. Those who wait get ErrGateClosed; those inside
// stay until they leave.
func (g *Gate) Close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.state() != gateClosed {
		g.becomeClosed()
	}
}

func (g *Gate) state() gateState { return gateState(g.word.Load() & gateStateMask) }

func (g *Gate) tryEnter(n int) bool {
	word := g.word.Add(int64(n) * gateOne)
	if word&gateStateMask == int64(gateOpen) {
		return true
	}
	g.LeaveN(n)
	return false
}

// wait returns nil when the gate has opened, at least for a moment.
func (g *Gate) wait(ctx context.Context) error {
	for {
		changed, state := g.nextChange()
		switch state {
		case gateOpen:
			return nil
		case gateClosed:
			return ErrGateClosed
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// nextChange returns the state, and a channel that is closed when it changes.
func (g *Gate) nextChange() (<-chan struct{}, gateState) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.changed == nil {
		g.changed = make(chan struct{})
	}
	return g.changed, g.state()
}

// inside returns nil when nobody is inside, else a channel that is closed when
// that may have changed. The count is read after the channel is in place and
// whoever brings it to zero looks for the channel afterwards, so that one of
// the two sees the other.
func (g *Gate) inside() (<-chan struct{}, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.state() == gateOpen {
		return nil, ErrGateOpen
	}
	if g.empty == nil {
		g.empty = make(chan struct{})
	}
	if g.word.Load()/gateOne == 0 {
		wake(&g.empty)
		return nil, nil
	}
	return g.empty, nil
}

func (g *Gate) becomeHeld()   { g.become(gateHeld) }
func (g *Gate) becomeOpen()   { g.become(gateOpen) }
func (g *Gate) becomeClosed() { g.become(gateClosed) }

// become changes the state and tells those who wait for that. The caller holds
// mu, so the state in word is nobody else's to change.
func (g *Gate) become(next gateState) {
	g.word.Add(int64(next - g.state()))
	wake(&g.changed)
	wake(&g.empty)
}

// wake closes a channel that somebody may wait for.
func wake(c *chan struct{}) {
	if *c != nil {
		close(*c)
		*c = nil
	}
}
