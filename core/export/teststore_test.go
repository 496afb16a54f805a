// SPDX-License-Identifier: GPL-3.0-or-later

package export

import (
	"bytes"
	"context"
	"sync"
	"testing"

	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// testStore is a disk in memory that keeps a list of the calls it got, and that
// can be stopped in the middle of one.
type testStore struct {
	info store.Info

	mu     sync.Mutex
	data   []byte
	calls  []call
	errs   map[string]error // by operation; nothing is changed then
	closed bool

	// before and after are called outside mu, before and after a call takes
	// effect. Set before use, nil or not.
	before, after func(call)
	// extents stands in for the map that data gives, unless nil.
	extents func(off, length int64) ([]store.Extent, error)
}

type call struct {
	op          string
	off, length int64
	flags       store.Flags
}

func newTestStore(size int64) *testStore {
	return &testStore{
		info: store.Info{Size: size, FUA: store.Native, CanPunch: true, CanKeepAllocated: true, CanDiscard: true, CanExtents: true},
		data: make([]byte, size),
		errs: map[string]error{},
	}
}

// do brackets the effect of a call.
func (s *testStore) do(c call, effect func()) error {
	if s.before != nil {
		s.before(c)
	}
	s.mu.Lock()
	s.calls = append(s.calls, c)
	err := s.errs[c.op]
	if err == nil {
		effect()
	}
	s.mu.Unlock()
	if s.after != nil {
		s.after(c)
	}
	return err
}

func (s *testStore) Info() store.Info { return s.info }

func (s *testStore) ReadAt(_ context.Context, p []byte, off int64) error {
	return s.do(call{"read", off, int64(len(p)), 0}, func() { copy(p, s.data[off:]) })
}

func (s *testStore) WriteAt(_ context.Context, p []byte, off int64, flags store.Flags) error {
	return s.do(call{"write", off, int64(len(p)), flags}, func() { copy(s.data[off:], p) })
}

func (s *testStore) PunchHole(_ context.Context, off, length int64, flags store.Flags) error {
	return s.do(call{"punch", off, length, flags}, func() {
		p := s.data[off : off+length]
		if flags&store.Discard == 0 {
			clear(p)
			return
		}
		for i := range p {
			p[i] = 0xdd // whoever discards does not care
		}
	})
}

func (s *testStore) Flush(context.Context) error {
	return s.do(call{op: "flush"}, func() {})
}

func (s *testStore) Extents(_ context.Context, off, length int64) (found []store.Extent, err error) {
	err = s.do(call{"extents", off, length, 0}, func() {
		if s.extents != nil {
			return
		}
		for pos := off; pos < off+length; {
			state, end := store.Data, blockEnd(pos, off+length)
			if allZero(s.data[pos:end]) {
				state = store.Hole | store.Zero
			}
			if n := len(found); n > 0 && found[n-1].State == state {
				found[n-1].Length += end - pos
			} else {
				found = append(found, store.Extent{Offset: pos, Length: end - pos, State: state})
			}
			pos = end
		}
	})
	if err == nil && s.extents != nil {
		return s.extents(off, length)
	}
	return found, err
}

func (s *testStore) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}

// took returns the calls since it was last asked, without those of the build.
func (s *testStore) took() (calls []call) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.calls {
		if c.op != "extents" {
			calls = append(calls, c)
		}
	}
	s.calls = nil
	return calls
}

func (s *testStore) bytes(off, length int64) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Clone(s.data[off : off+length])
}

func (s *testStore) fail(op string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.errs[op] = err
}

// client is a session's side of one queue.
type client struct {
	t *testing.T
	wire.Queue
	done chan *wire.Request
}

// serve opens s and closes it when the test ends. The zero map is built.
func serve(t *testing.T, s *testStore) *Export {
	t.Helper()
	e := serveUnbuilt(t, s)
	e.background.Wait()
	return e
}

func serveUnbuilt(t *testing.T, s *testStore) *Export {
	t.Helper()
	e, err := Open(context.Background(), s, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return e
}

func (e *Export) connect(t *testing.T) *client { return e.connectWith(t, t.Context()) }

func (e *Export) connectWith(t *testing.T, ctx context.Context) *client {
	return newClient(t, func(sink wire.Sink) wire.Queue { return e.NewQueue(ctx, sink) })
}

func newClient(t *testing.T, queue func(wire.Sink) wire.Queue) *client {
	c := &client{t: t, done: make(chan *wire.Request, 4096)}
	c.Queue = queue(func(batch []*wire.Request) {
		for _, r := range batch {
			c.done <- r
		}
	})
	t.Cleanup(func() { c.Close() })
	return c
}

// start submits a request without waiting.
func (c *client) start(r *wire.Request) *wire.Request {
	c.Submit([]*wire.Request{r})
	return r
}

// do submits a request and waits for it; the queue has no other in flight.
func (c *client) do(r *wire.Request) error {
	c.t.Helper()
	c.start(r)
	if got := <-c.done; got != r {
		c.t.Fatalf("got a completion of %+v", got)
	}
	return r.Err
}

func (c *client) must(r *wire.Request) *wire.Request {
	c.t.Helper()
	if err := c.do(r); err != nil {
		c.t.Fatalf("%v of %d bytes at %d: %v", r.Op, r.Length, r.Offset, err)
	}
	return r
}

func read(off, length int64) *wire.Request {
	return &wire.Request{Op: wire.OpRead, Offset: off, Length: length, Data: &wire.Payload{Bytes: make([]byte, length)}}
}

func write(off int64, p []byte, flags store.Flags) *wire.Request {
	return &wire.Request{Op: wire.OpWrite, Offset: off, Length: int64(len(p)), Data: &wire.Payload{Bytes: p}, Flags: flags}
}

func zero(off, length int64, flags store.Flags) *wire.Request {
	return &wire.Request{Op: wire.OpZero, Offset: off, Length: length, Flags: flags}
}

func flush() *wire.Request { return &wire.Request{Op: wire.OpFlush} }

// content returns what a client finds.
func (c *client) content(off, length int64) []byte {
	c.t.Helper()
	r := c.must(read(off, length))
	if r.Zero {
		return make([]byte, length)
	}
	return r.Data.Bytes
}

func filled(n int64, b byte) []byte { return bytes.Repeat([]byte{b}, int(n)) }
