// SPDX-License-Identifier: GPL-3.0-or-later

package export

import (
	"errors"
	"testing"

	"github.com/flexnbd/flexnbd/sdk/store"
)

// crashing serves a disk of which only flushed writes survive a crash.
func crashing(t *testing.T, survives store.Survival) (*testStore, *Export) {
	t.Helper()
	s := newTestStore(4 * blockSize)
	s.info.Survives = survives
	return s, serve(t, s)
}

func (c *client) wantLoss(lost bool) {
	c.t.Helper()
	if err := c.do(flush()); errors.Is(err, store.ErrIO) != lost {
		c.t.Errorf("the flush returned %v, want a loss: %v", err, lost)
	}
}

func TestEveryConnectionIsToldOfALossOnce(t *testing.T) {
	_, e := crashing(t, store.SurvivesFlushed)
	wrote, other, third := e.connect(t), e.connect(t), e.connect(t)
	wrote.must(write(0, data, 0))
	e.Restarted()
	late := e.connect(t) // nobody has been told yet
	other.wantLoss(true)
	wrote.wantLoss(true)
	if err := third.do(write(0, data, store.FUA)); !errors.Is(err, store.ErrIO) {
		t.Errorf("FUA after a loss: %v", err)
	}
	late.wantLoss(true)
	later := e.connect(t)
	for _, c := range []*client{wrote, other, third, late, later} {
		c.wantLoss(false)
	}
}

func TestLossOutlivesTheConnectionThatWrote(t *testing.T) {
	_, e := crashing(t, store.SurvivesFlushed)
	gone := e.connect(t)
	gone.must(write(0, data, 0))
	gone.Close()
	e.Restarted()
	e.connect(t).wantLoss(true)
}

func TestFlushOfAnyConnectionPreventsALoss(t *testing.T) {
	_, e := crashing(t, store.SurvivesFlushed)
	wrote, other := e.connect(t), e.connect(t)
	wrote.must(write(0, data, 0))
	other.must(flush())
	e.Restarted()
	wrote.wantLoss(false)
	other.wantLoss(false)
}

func TestDurableWritesAreNotLost(t *testing.T) {
	for _, support := range []store.Support{store.None, store.Native} {
		s, _ := crashing(t, store.SurvivesFlushed)
		s.info.FUA = support
		e := serve(t, s)
		c := e.connect(t)
		c.must(write(0, data, store.FUA))
		c.must(zero(0, blockSize, store.FUA))
		e.Restarted()
		c.wantLoss(false)
	}
}

func TestNothingIsLostWhereAcknowledgedWritesSurvive(t *testing.T) {
	_, e := crashing(t, store.SurvivesAcknowledged)
	c := e.connect(t)
	c.must(write(0, data, 0))
	e.Restarted()
	c.wantLoss(false)
}

func TestFailedWriteIsNoLoss(t *testing.T) {
	s, e := crashing(t, store.SurvivesFlushed)
	s.fail("write", store.ErrNoSpace)
	c := e.connect(t)
	if err := c.do(write(0, data, 0)); !errors.Is(err, store.ErrNoSpace) {
		t.Fatal(err)
	}
	e.Restarted()
	c.wantLoss(false)
}
