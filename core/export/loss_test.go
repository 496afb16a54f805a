// SPDX-License-Identifier: GPL-3.0-or-later

package export

import (
	"errors"
	"testing"

	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

func wantPending(t *testing.T, e *Export, want error, when string) {
	t.Helper()
	if err := e.PendingLoss(); (err == nil) != (want == nil) || want != nil && !errors.Is(err, want) {
		t.Errorf("%s, pending is %v, want %v", when, err, want)
	}
}

// Whatever way a client is told by, it has been told.
func TestFailedFlushIsPendingUntilEveryConnectionWasTold(t *testing.T) {
	for _, support := range []store.Support{store.None, store.Native} {
		for name, r := range map[string]func() *wire.Request{
			"flush": flush, "write": func() *wire.Request { return write(0, data, store.FUA) },
			"zero":        func() *wire.Request { return zero(0, 10, store.FUA) },
			"known zeros": func() *wire.Request { return write(2*regionSize, noData, store.FUA) },
		} {
			t.Run(name, func(t *testing.T) {
				s := newTestStore(4 * regionSize)
				s.info.FUA = support
				s.data[0] = 1
				e := serve(t, s)
				first, other := e.connect(t), e.connect(t)
				wantPending(t, e, nil, "in the beginning")
				s.fail("flush", errTest)
				if err := first.do(flush()); err == nil {
					t.Fatal("the flush succeeded")
				}
				wantPending(t, e, errTest, "with one of two told")
				other.must(write(0, data, 0))
				wantPending(t, e, errTest, "after a write without FUA")
				if err := other.do(r()); err == nil {
					t.Fatal("the request succeeded")
				}
				wantPending(t, e, nil, "with both told")
				late := e.connect(t)
				wantPending(t, e, errTest, "with one more connection")
				late.Close()
				wantPending(t, e, nil, "with that closed")
			})
		}
	}
}

func TestFailedForcedWriteTellsItsConnection(t *testing.T) {
	s := newTestStore(regionSize)
	s.data[0] = 1
	e := serve(t, s)
	c, other := e.connect(t), e.connect(t)
	s.fail("write", store.ErrNoSpace)
	_ = c.do(write(0, data, store.FUA))
	wantPending(t, e, nil, "without space")
	s.fail("write", store.ErrIO)
	_ = c.do(write(0, data, store.FUA))
	wantPending(t, e, store.ErrIO, "with another connection")
	other.Close()
	wantPending(t, e, nil, "with only the one that was told")
}

// Nobody is connected any more: whoever comes next may be the one that wrote.
func TestFailedFlushThatNobodyWasToldOfStaysPending(t *testing.T) {
	s := newTestStore(regionSize)
	s.data[0] = 1
	e := serve(t, s)
	idle := e.connect(t)
	_ = e.flusher.latch(errTest)
	idle.Close()
	wantPending(t, e, errTest, "with nobody connected")
	if err := e.Flush(t.Context()); !errors.Is(err, errTest) {
		t.Fatal(err)
	}
	wantPending(t, e, nil, "after a flush that failed")
}

func TestCrashIsPendingUntilEveryConnectionWasTold(t *testing.T) {
	_, e := crashing(t, store.SurvivesFlushed)
	wrote, other := e.connect(t), e.connect(t)
	wrote.must(write(0, data, 0))
	wantPending(t, e, nil, "before the crash")
	e.Restarted()
	wantPending(t, e, errLost, "after it")
	wrote.wantLoss(true)
	wantPending(t, e, errLost, "with one of two told")
	e.connect(t).Close() // one that came and went changes nothing
	other.wantLoss(true)
	wantPending(t, e, nil, "with both told")

	other.must(write(0, data, 0))
	wrote.Close()
	other.Close()
	e.Restarted()
	wantPending(t, e, errLost, "after another, with nobody told")
	e.connect(t).wantLoss(true)
	wantPending(t, e, nil, "with somebody told")
}
