// SPDX-License-Identifier: GPL-3.0-or-later

package export

import (
	"bytes"
	"context"
	"errors"
	"reflect"
	"syscall"
	"testing"
	"time"

	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

func TestQueueCarriesOutEveryOperation(t *testing.T) {
	s := newTestStore(10000)
	c := serve(t, s).connect(t)
	p := filled(5000, 7)
	c.must(write(123, p, 0))
	if got := c.content(123, 5000); !bytes.Equal(got, p) {
		t.Fatal("wrong bytes read back")
	}
	c.must(zero(124, 4998, 0))
	c.must(flush())
	if got := s.bytes(123, 5000); got[0] != 7 || got[4999] != 7 || !bytes.Equal(got[1:4999], make([]byte, 4998)) {
		t.Fatal("wrong bytes on the disk")
	}
	want := []call{{"write", 123, 5000, 0}, {"read", 123, 5000, 0}, {"punch", 124, 4998, 0}, {op: "flush"}}
	if got := s.took(); !reflect.DeepEqual(got, want) {
		t.Fatalf("the store got %v", got)
	}
}

func TestErrorsReachTheClient(t *testing.T) {
	s := newTestStore(2 * regionSize)
	s.info.CanExtents = false
	c := serve(t, s).connect(t)
	for op, r := range map[string]*wire.Request{
		"read": read(0, 10), "write": write(0, data, 0), "punch": zero(0, 10, 0), "flush": flush(),
	} {
		s.fail(op, store.ErrNoSpace)
		if err := c.do(r); !errors.Is(err, store.ErrNoSpace) {
			t.Errorf("%s: %v", op, err)
		}
	}
}

func TestEmptyRequestsReachNoStore(t *testing.T) {
	s := newTestStore(100)
	c := serve(t, s).connect(t)
	for _, r := range []*wire.Request{read(100, 0), write(100, nil, 0), zero(100, 0, 0), zero(0, 0, store.KeepAllocated)} {
		r.Data = nil
		c.must(r)
	}
	if calls := s.took(); calls != nil {
		t.Fatalf("the store got %v", calls)
	}
}

func TestReadOnlyExportTakesNoWrites(t *testing.T) {
	s := newTestStore(100)
	e, err := Open(t.Context(), s, Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close(context.Background())
	c := e.connect(t)
	defer c.Close()
	for _, r := range []*wire.Request{write(0, []byte{1}, 0), zero(0, 1, 0)} {
		if err := c.do(r); !errors.Is(err, store.ErrReadOnly) {
			t.Errorf("%v: %v", r.Op, err)
		}
	}
	if !e.ReadOnly() || s.took() != nil {
		t.Fatal("not read-only")
	}
}

func TestRequestsThatTheSessionShouldHaveSplitPanic(t *testing.T) {
	s := newTestStore(100)
	s.info.Size = 1 << 40
	s.info.CanExtents = false
	c := serve(t, s).connect(t)
	for name, r := range map[string]*wire.Request{
		"large write":   write(0, make([]byte, wire.MaxPayload+1), 0),
		"large zero":    zero(0, MaxZeroPiece+1, 0),
		"behind":        zero(1<<40-1, 2, 0),
		"before":        zero(-1, 1, 0),
		"overflow":      zero(1, 1<<63-1, 0),
		"negative":      zero(1, -1, 0),
		"no operation":  {},
		"wrong payload": {Op: wire.OpRead, Length: 2, Data: &wire.Payload{Bytes: make([]byte, 1)}},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			c.start(r)
		}()
	}
}

func TestHeldGateKeepsRequestsBackAndLetsThoseInsideOut(t *testing.T) {
	s, reading := newTestStore(100), newStop(t)
	s.info.CanExtents = false
	s.before = reading.at("read")
	e := serve(t, s)
	c := e.connect(t)
	inside := c.start(read(0, 10))
	<-reading.reached
	e.Gate().Hold()
	submitted := make(chan *wire.Request)
	held := read(10, 10)
	go func() { submitted <- c.start(held) }()
	e.Gate().waitForSomebody(t)
	close(reading.release)
	if got := <-c.done; got != inside {
		t.Fatal("the held request was let in")
	}
	if err := e.Gate().Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case <-submitted:
		t.Fatal("Submit returned though the gate is held")
	case <-c.done:
		t.Fatal("a held request completed")
	default:
	}
	if n := len(s.took()); n != 1 {
		t.Fatalf("the store got %d calls", n)
	}
	e.Gate().Open()
	if got := <-c.done; got != held || got.Err != nil {
		t.Fatalf("held request: %v", got.Err)
	}
	<-submitted
}

// waitForSomebody returns when somebody waits at the gate.
func (g *Gate) waitForSomebody(t *testing.T) {
	t.Helper()
	eventually(t, "somebody waits at the gate", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.changed != nil
	})
}

// eventually polls for a state that another goroutine brings about.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !holds(); time.Sleep(50 * time.Microsecond) {
		if time.Now().After(deadline) {
			t.Fatalf("gave up waiting until %s", what)
		}
	}
}

func TestClosedGateMeansMovedAway(t *testing.T) {
	s := newTestStore(100)
	e := serve(t, s)
	c := e.connect(t)
	e.Gate().Hold()
	submitted := make(chan *wire.Request)
	go func() { submitted <- c.start(write(0, []byte{1}, 0)) }()
	e.Gate().waitForSomebody(t)
	e.Gate().Close()
	if r := <-c.done; !errors.Is(r.Err, ErrMovedAway) || store.Errno(r.Err) != syscall.ESHUTDOWN {
		t.Fatalf("held request: %v", r.Err)
	}
	<-submitted
	if err := c.do(read(0, 1)); !errors.Is(err, ErrMovedAway) {
		t.Fatalf("later request: %v", err)
	}
	if calls := s.took(); calls != nil {
		t.Fatalf("the store got %v", calls)
	}
}

func TestConnectionsContextEndsTheWaitAtTheGateOnly(t *testing.T) {
	s, reading := newTestStore(100), newStop(t)
	s.info.CanExtents = false
	s.before = reading.at("read")
	e := serve(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	c := e.connectWith(t, ctx)
	inside := c.start(read(0, 10))
	<-reading.reached
	e.Gate().Hold()
	cancel()
	c.start(flush())
	if r := <-c.done; r.Op != wire.OpFlush || !errors.Is(r.Err, context.Canceled) {
		t.Fatalf("%v: %v", r.Op, r.Err)
	}
	close(reading.release)
	if r := <-c.done; r != inside || r.Err != nil {
		t.Fatalf("the request inside: %v", r.Err)
	}
}

// A session whose sink hangs must not keep a request inside the gate.
func TestRequestHasLeftTheGateWhenTheSinkSeesIt(t *testing.T) {
	s := newTestStore(2 * regionSize)
	s.data[0] = 1
	s.info.FUA = store.None
	e := serve(t, s)
	hang, seen := make(chan struct{}), make(chan wire.Op, 10)
	q := e.NewQueue(t.Context(), func(batch []*wire.Request) {
		for _, r := range batch {
			seen <- r.Op
		}
		<-hang
	})
	for _, r := range []*wire.Request{read(0, 1), flush(), write(0, data, store.FUA), zero(0, 10, 0)} {
		go q.Submit([]*wire.Request{r}) // which may run the sink itself
		<-seen
		e.Gate().Hold()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		if err := e.Gate().Drain(ctx); err != nil {
			close(hang)
			t.Fatalf("%v: %v", r.Op, err)
		}
		cancel()
		e.Gate().Open()
		hang <- struct{}{}
	}
	q.Close()
}

func TestCloseOfAQueueWaitsForItsRequests(t *testing.T) {
	for _, op := range []string{"write", "flush", "punch"} {
		t.Run(op, func(t *testing.T) {
			s, st := newTestStore(2*blockSize), newStop(t)
			copy(s.data, data)
			s.before = st.at(op)
			c := serve(t, s).connect(t)
			switch op {
			case "write":
				c.start(write(0, []byte{1}, 0))
			case "flush":
				c.start(flush())
			case "punch":
				c.start(zero(0, 10, 0))
			}
			<-st.reached
			closed := make(chan struct{})
			go func() { c.Close(); close(closed) }()
			select {
			case <-closed:
				t.Fatal("Close did not wait")
			case <-c.done:
				t.Fatal("completed too early")
			default:
			}
			close(st.release)
			<-closed
			if len(c.done) != 1 {
				t.Fatal("Close returned before the sink")
			}
		})
	}
}

func TestBatchCompletesAsAWhole(t *testing.T) {
	s := newTestStore(8 * regionSize)
	c := serve(t, s).connect(t)
	var batch []*wire.Request
	for i := range int64(100) {
		batch = append(batch, write(i*blockSize, data, 0), read(5*regionSize, blockSize), zero(6*regionSize, 10, 0), flush())
	}
	c.Submit(batch)
	seen := map[*wire.Request]bool{}
	for range batch {
		r := <-c.done
		if seen[r] || r.Err != nil {
			t.Fatalf("%v: seen %v, error %v", r.Op, seen[r], r.Err)
		}
		seen[r] = true
	}
	if !bytes.Equal(s.bytes(0, 100*blockSize), filled(100*blockSize, 0xaa)) {
		t.Fatal("wrong bytes on the disk")
	}
	c.Submit(nil)
}
