// SPDX-License-Identifier: GPL-3.0-or-later

package export

import (
	"context"
	"errors"
	"syscall"
	"testing"

	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

func countFlushes(calls []call) (n int) {
	for _, c := range calls {
		if c.op == "flush" {
			n++
		}
	}
	return n
}

func TestFailedFlushFailsForEverybodyFromThenOn(t *testing.T) {
	for _, support := range []store.Support{store.None, store.Native} {
		s := newTestStore(4 * regionSize)
		s.info.FUA = support
		s.data[0] = 1
		e := serve(t, s)
		c, other := e.connect(t), e.connect(t)
		s.fail("flush", errTest)
		if err := c.do(flush()); !errors.Is(err, errTest) || store.Errno(err) != syscall.EIO {
			t.Fatalf("got %v", err)
		}
		s.fail("flush", nil) // Linux reports it once
		s.took()
		for name, r := range map[string]*wire.Request{
			"flush": flush(), "write": write(0, data, store.FUA), "zero": zero(0, 10, store.FUA),
			"known zeroes": write(2*regionSize, noData, store.FUA), "known zero": zero(2*regionSize, 10, store.FUA),
		} {
			if err := other.do(r); !errors.Is(err, errTest) {
				t.Errorf("FUA %d, %s: %v", support, name, err)
			}
		}
		if err := e.Flush(t.Context()); !errors.Is(err, errTest) {
			t.Errorf("Export.Flush: %v", err)
		}
		other.must(write(0, data, 0))
		other.content(0, 10)
		if n := countFlushes(s.took()); n != 0 {
			t.Errorf("%d more flushes", n)
		}
	}
}

func TestFailedForcedWriteIsNotForgotten(t *testing.T) {
	for _, x := range []struct {
		err     error
		latched bool
	}{{store.ErrIO, true}, {errTest, true}, {store.ErrNoSpace, false}} {
		s := newTestStore(regionSize)
		s.data[0] = 1
		c := serve(t, s).connect(t)
		s.fail("write", x.err)
		if err := c.do(write(0, data, store.FUA)); !errors.Is(err, x.err) {
			t.Fatalf("got %v", err)
		}
		if err := c.do(flush()); (err != nil) != x.latched {
			t.Errorf("after %v a flush gives %v", x.err, err)
		}
	}
}

func TestFlushesDoNotOverlapAndAreShared(t *testing.T) {
	s, flushing := newTestStore(100), newStop(t)
	s.before = flushing.at("flush")
	e := serve(t, s)
	c := e.connect(t)
	c.start(flush())
	<-flushing.reached
	for range 20 {
		c.start(flush())
	}
	called := make(chan error)
	go func() { called <- e.Flush(t.Context()) }()
	eventually(t, "the caller waits", func() bool {
		e.flusher.mu.Lock()
		defer e.flusher.mu.Unlock()
		return len(e.flusher.callers) == 1
	})
	if len(c.done) != 0 || len(s.took()) != 0 {
		t.Fatal("a flush overtook another, or ended early")
	}
	close(flushing.release)
	if err := <-called; err != nil {
		t.Fatal(err)
	}
	for range 21 {
		if r := <-c.done; r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	if n := countFlushes(s.took()); n != 2 {
		t.Fatalf("%d flushes of the store, want the first and one for all others", n)
	}
}

// A flush that began before a write ended does not cover it.
func TestFlushThatWaitsIsNotServedByAnEarlierOne(t *testing.T) {
	s, flushing := newTestStore(blockSize), newStop(t)
	s.after = flushing.at("flush") // after it took effect
	e := serve(t, s)
	c, other := e.connect(t), e.connect(t)
	other.start(flush())
	<-flushing.reached
	c.must(write(0, data, 0))
	c.start(flush())
	close(flushing.release)
	<-c.done
	calls := s.took()
	if n := len(calls); n != 3 || calls[n-1].op != "flush" || calls[n-2].op != "write" {
		t.Fatalf("the store got %v", calls)
	}
	<-other.done
}

func TestFlushOutlivesItsCallersContext(t *testing.T) {
	s, flushing := newTestStore(100), newStop(t)
	s.before = flushing.at("flush")
	e := serve(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	called := make(chan error)
	go func() { called <- e.Flush(ctx) }()
	<-flushing.reached
	cancel()
	if err := <-called; !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	s.fail("flush", errTest)
	close(flushing.release)
	if err := e.Flush(t.Context()); !errors.Is(err, errTest) {
		t.Fatalf("the failure of the abandoned flush was forgotten: %v", err)
	}
	if n := countFlushes(s.took()); n != 1 {
		t.Fatalf("%d flushes", n)
	}
}
