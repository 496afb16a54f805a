// SPDX-License-Identifier: GPL-3.0-or-later

package export

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// errGone is what a call gets whose process has ended.
var errGone = fmt.Errorf("test: %w", wire.ErrPluginGone)

// dataEverywhere is the extent map of a store that came back with old data.
func dataEverywhere(off, length int64) ([]store.Extent, error) {
	return store.AllData(off, length), nil
}

// reaches says whether a read of the first block gets to the store.
func (c *client) reaches(s *testStore) bool {
	c.t.Helper()
	s.took()
	c.must(read(0, blockSize))
	return len(s.took()) == 1
}

func TestNothingIsKnownToBeZeroAfterARestart(t *testing.T) {
	s := newTestStore(4 * regionSize)
	e := serve(t, s)
	c := e.connect(t)
	if c.reaches(s) {
		t.Fatal("the zeroes are not known to begin with")
	}
	s.mu.Lock()
	s.extents, s.data[0] = dataEverywhere, 7
	s.mu.Unlock()
	e.Restarted()
	if !c.reaches(s) || c.content(0, 1)[0] != 7 {
		t.Error("after a restart the zero map still answers")
	}
	c.must(write(0, noData, 0))
	if s.bytes(0, 1)[0] != 0 {
		t.Error("after a restart zeroes were left out that the disk does not have")
	}
}

func TestZeroingThatSpansARestartTeachesNothing(t *testing.T) {
	s, punch := newTestStore(4*regionSize), newStop(t)
	s.extents, s.data[0] = dataEverywhere, 1
	s.after = punch.at("punch")
	e := serve(t, s)
	c, other := e.connect(t), e.connect(t)
	other.start(zero(0, blockSize, 0))
	<-punch.reached // the old process has done it
	e.Restarted()   // and it is lost with it
	<-e.Built()
	close(punch.release)
	if r := <-other.done; r.Err != nil {
		t.Fatal(r.Err)
	}
	if !c.reaches(s) {
		t.Error("the block counts as zero, which only the dead process knew")
	}
	c.must(zero(0, blockSize, 0)) // the premise: without a restart it does
	if c.reaches(s) {
		t.Error("a zeroing teaches nothing at all")
	}
}

func TestZeroMapIsBuiltAnewAfterARestart(t *testing.T) {
	s := newTestStore(4 * regionSize)
	stop := newStop(t)
	e := serve(t, s)
	s.before = stop.at("extents") // only the next build meets it
	first := e.Built()
	e.Restarted()
	<-stop.reached
	select {
	case <-first:
	default:
		t.Error("the first build has not ended")
	}
	select {
	case <-e.Built():
		t.Error("the new build has ended already")
	default:
	}
	close(stop.release)
	<-e.Built()
	if e.connect(t).reaches(s) {
		t.Error("the new build has not found the zeroes")
	}
}

func TestRestartsInARowEndWithOneBuild(t *testing.T) {
	s, stop := newTestStore(4*regionSize), newStop(t)
	s.before = stop.at("extents")
	e := serveUnbuilt(t, s)
	<-stop.reached // the first build hangs in the store
	for range 10 {
		e.Restarted()
	}
	close(stop.release)
	<-e.Built()
	if e.connect(t).reaches(s) {
		t.Error("the last build has not found the zeroes")
	}
}

// obedient gives up when its context ends, as a store in a process does.
type obedient struct{ *testStore }

func (s obedient) Extents(ctx context.Context, off, length int64) ([]store.Extent, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return s.testStore.Extents(ctx, off, length)
}

func TestBuildDoesNotEndWithTheContextOfOpen(t *testing.T) {
	s := newTestStore(4 * regionSize)
	ctx, cancel := context.WithCancel(t.Context())
	e, err := Open(ctx, obedient{s}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	cancel()
	e.Restarted()
	<-e.Built()
	if e.connect(t).reaches(s) {
		t.Error("nothing was built")
	}
}

func TestRestartAfterCloseBuildsNothing(t *testing.T) {
	s := newTestStore(4 * regionSize)
	e := serve(t, s)
	if err := e.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	s.calls = nil
	s.mu.Unlock()
	e.Restarted()
	e.background.Wait()
	if len(s.calls) != 0 {
		t.Errorf("a closed store got %v", s.calls)
	}
}

// A write that the dead process answered, and whose answer is still on its way
// through the core, is as lost as one that a client has seen.
func TestWriteAcknowledgedDuringARestartCountsAsLost(t *testing.T) {
	for name, r := range map[string]*wire.Request{
		"write":             write(0, data, 0),
		"punch":             zero(0, blockSize, 0),
		"several writes":    zero(0, blockSize, store.KeepAllocated),
		"write with zeroes": write(0, append(filled(blockSize, 1), noData...), 0),
	} {
		s := newTestStore(4 * blockSize)
		s.info.Survives, s.info.CanKeepAllocated = store.SurvivesFlushed, false
		s.data[0] = 1
		stop, punch := newStop(t), newStop(t)
		written, punched := stop.at("write"), punch.at("punch")
		s.after = func(c call) { written(c); punched(c) }
		e := serve(t, s)
		c, other := e.connect(t), e.connect(t)
		c.start(r)
		select {
		case <-stop.reached:
		case <-punch.reached:
		}
		e.Restarted()
		close(stop.release)
		close(punch.release)
		if <-c.done; r.Err != nil {
			t.Fatal(r.Err)
		}
		for _, c := range []*client{c, other} {
			if err := c.do(flush()); !errors.Is(err, errLost) {
				t.Errorf("%s: the flush returned %v", name, err)
			}
			c.must(flush())
		}
	}
}

// It was begun before the crash, so nobody could tell its client at the begin.
func TestFlushThatWaitedThroughALossTellsIt(t *testing.T) {
	s, flushing := newTestStore(4*blockSize), newStop(t)
	s.info.Survives, s.info.FUA = store.SurvivesFlushed, store.None
	s.before = flushing.at("flush")
	s.after = func(c call) { s.fail("flush", nil) } // after one process the next
	e := serve(t, s)
	dying, waiting, forced := e.connect(t), e.connect(t), e.connect(t)
	waiting.must(write(0, data, 0))
	dying.start(flush())
	<-flushing.reached
	waiting.start(flush())
	forced.start(write(0, data, store.FUA))
	eventually(t, "both wait for the next flush", func() bool {
		e.flusher.mu.Lock()
		defer e.flusher.mu.Unlock()
		return len(e.flusher.ops) == 2
	})
	s.fail("flush", errGone)
	e.Restarted()
	close(flushing.release)
	for _, c := range []*client{dying, waiting, forced} {
		if r := <-c.done; !errors.Is(r.Err, store.ErrIO) && !errors.Is(r.Err, wire.ErrPluginGone) {
			t.Errorf("a flush that spans the loss returned %v", r.Err)
		}
		c.wantLoss(false) // it was told
	}
}

func TestLossThatNobodyWasToldOfFailsTheLastFlush(t *testing.T) {
	_, e := crashing(t, store.SurvivesFlushed)
	c := e.connect(t)
	c.must(write(0, data, 0))
	c.Close()
	e.Restarted()
	if err := e.Flush(t.Context()); !errors.Is(err, errLost) {
		t.Errorf("Flush returned %v", err)
	}
	if err := e.Flush(t.Context()); err != nil {
		t.Errorf("the second Flush returned %v", err)
	}
}

func TestLossIsToldByForcedZeroesToo(t *testing.T) {
	for _, support := range []store.Support{store.None, store.Native} {
		s := newTestStore(4 * blockSize)
		s.info.Survives, s.info.FUA = store.SurvivesFlushed, support
		e := serve(t, s)
		c := e.connect(t)
		c.must(write(0, data, 0))
		e.Restarted()
		if err := c.do(zero(0, blockSize, store.FUA)); !errors.Is(err, errLost) {
			t.Errorf("FUA %d: %v", support, err)
		}
		c.must(zero(0, blockSize, store.FUA))
		c.wantLoss(false)
	}
}

func TestSecondCrashTellsNoOldLoss(t *testing.T) {
	_, e := crashing(t, store.SurvivesFlushed)
	c := e.connect(t)
	c.must(write(0, data, 0))
	e.Restarted()
	c.wantLoss(true)
	e.Restarted()
	c.wantLoss(false)
}

func TestCrashIsNoFailureOfTheStorage(t *testing.T) {
	s := newTestStore(4 * blockSize)
	s.data[0] = 1
	e := serve(t, s)
	c := e.connect(t)
	for _, op := range []string{"flush", "write", "punch"} {
		s.fail(op, errGone)
		r := map[string]*wire.Request{"flush": flush(), "write": write(0, data, store.FUA), "punch": zero(0, blockSize, store.FUA)}[op]
		if err := c.do(r); !errors.Is(err, wire.ErrPluginGone) {
			t.Fatalf("%s: %v", op, err)
		}
		s.fail(op, nil)
		c.must(flush())
		c.must(write(0, data, store.FUA))
	}
	s.fail("flush", errTest)
	if err := c.do(flush()); !errors.Is(err, errTest) {
		t.Fatal(err)
	}
	s.fail("flush", nil)
	if err := c.do(flush()); !errors.Is(err, errTest) {
		t.Errorf("the failure of the storage was forgotten: %v", err)
	}
}
