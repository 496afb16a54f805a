// SPDX-License-Identifier: Apache-2.0

package ringlane

import (
	"context"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/sdk/memstore"
	"github.com/flexnbd/flexnbd/sdk/rangelock"
	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/wire"
	"github.com/flexnbd/flexnbd/sdk/wire/ring"
	"github.com/flexnbd/flexnbd/sdk/wire/wiretest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	diskSize = 8 << 20
	patience = 30 * time.Second
)

// plugin is a process of the tests' own.
type plugin struct {
	t testing.TB
	// serve is its end of each ring; it returns when the ring is to end.
	serve func(socket, memory *os.File, size int)
	// refuses is why it opens none.
	refuses error
	// room is what the kernel keeps of requests that are not read, in bytes; 0: a lot.
	room int

	rings  sync.WaitGroup
	broke  chan error // what Broke was told
	silent chan struct{}
	gone   chan struct{} // closed once nothing of it can land any more

	hungUp atomic.Int32 // how often Ended was called

	mu       sync.Mutex
	unopened []error
}

func newPlugin(t testing.TB, serve func(socket, memory *os.File, size int)) *plugin {
	return &plugin{t: t, serve: serve, broke: make(chan error, 100), silent: make(chan struct{}, 100), gone: make(chan struct{})}
}

// serves is a plugin as it should be.
func serves(t testing.TB, s store.Store) *plugin {
	return newPlugin(t, func(socket, memory *os.File, size int) {
		server, err := ring.NewServer(s, socket, memory, size)
		if err != nil {
			t.Error(err)
			return
		}
		if err := server.Run(); err != nil {
			t.Errorf("the plugin is not content: %v", err)
		}
	})
}

func (p *plugin) OpenRing(_ context.Context, memory *os.File, size int) (*os.File, error) {
	if p.refuses != nil {
		return nil, p.refuses
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if p.room > 0 {
		if err := unix.SetsockoptInt(fds[0], unix.SOL_SOCKET, unix.SO_SNDBUF, p.room); err != nil {
			return nil, err
		}
	}
	theirs, err := unix.FcntlInt(memory.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	p.rings.Go(func() {
		p.serve(os.NewFile(uintptr(fds[1]), "theirs"), os.NewFile(uintptr(theirs), "memory"), size)
	})
	return os.NewFile(uintptr(fds[0]), "ours"), nil
}

func (p *plugin) Unopened(why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unopened = append(p.unopened, why)
}

func (p *plugin) Broke(how error) { p.broke <- how }

func (p *plugin) Ended() { p.hungUp.Add(1) }

func (p *plugin) Silent() { p.silent <- struct{}{} }

// calls is a disk that carries out what rings do not.
type calls struct {
	store store.Store
	mu    sync.Mutex
	made  []*wire.Request // by Call
	again []*wire.Request // by Repeat
}

var errNotTwice = errors.New("not carried out twice")

func (c *calls) Call(r *wire.Request) error {
	c.mu.Lock()
	c.made = append(c.made, r)
	c.mu.Unlock()
	return c.do(r)
}

// Repeat repeats whatever is not a hole.
func (c *calls) Repeat(p Process, r *wire.Request) error {
	c.mu.Lock()
	c.again = append(c.again, r)
	c.mu.Unlock()
	<-p.(*plugin).gone
	if r.Op == wire.OpZero {
		return errNotTwice
	}
	return c.do(r)
}

func (c *calls) do(r *wire.Request) error {
	switch r.Op {
	case wire.OpRead:
		return c.store.ReadAt(context.Background(), r.Data.Bytes, r.Offset)
	case wire.OpWrite:
		return c.store.WriteAt(context.Background(), r.Data.Bytes, r.Offset, r.Flags)
	}
	return c.store.PunchHole(context.Background(), r.Offset, r.Length, r.Flags)
}

func (c *calls) count() (made, again int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.made), len(c.again)
}

// site is a lane with one queue.
type site struct {
	t      testing.TB
	store  store.Store
	calls  *calls
	ranges *rangelock.Lock
	lane   *Lane
	queue  *queue

	mu   sync.Mutex
	done map[*wire.Request]int
	more chan struct{}
}

// newSite makes a lane whose rings are p's, and waits until the queue has one unless p
// refuses.
func newSite(t testing.TB, p *plugin) *site {
	t.Helper()
	s := memstore.New(diskSize)
	site := &site{t: t, store: s, calls: &calls{store: s}, ranges: &rangelock.Lock{}, done: map[*wire.Request]int{}, more: make(chan struct{}, 1)}
	site.lane = New(site.ranges, site.calls)
	site.lane.Use(p)
	q, err := site.lane.NewQueue(wire.NewQueue(context.Background(), wiretest.Locked(s, site.ranges), site.sink), site.sink)
	if err != nil {
		t.Fatal(err)
	}
	site.queue = q.(*queue)
	if p != nil && p.refuses == nil {
		site.attached()
	}
	return site
}

func (s *site) attached() {
	s.t.Helper()
	eventually(s.t, "a ring", func() bool { return s.queue.line.Load() != nil })
}

func eventually(t testing.TB, what string, state func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !state(); time.Sleep(100 * time.Microsecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v in vain for %s", patience, what)
		}
	}
}

func (s *site) sink(done []*wire.Request) {
	s.mu.Lock()
	for _, r := range done {
		s.done[r]++
	}
	s.mu.Unlock()
	select {
	case s.more <- struct{}{}:
	default:
	}
}

// wait waits until requests are completed, each once.
func (s *site) wait(requests ...*wire.Request) {
	s.t.Helper()
	deadline := time.After(patience)
	for {
		s.mu.Lock()
		left := 0
		for _, r := range requests {
			if s.done[r] > 1 {
				s.t.Fatalf("%v at %d was completed %d times", r.Op, r.Offset, s.done[r])
			}
			if s.done[r] == 0 {
				left++
			}
		}
		s.mu.Unlock()
		if left == 0 {
			return
		}
		select {
		case <-s.more:
		case <-deadline:
			s.t.Fatalf("%d of %d requests are not completed", left, len(requests))
		}
	}
}

func (s *site) do(requests ...*wire.Request) {
	s.t.Helper()
	s.queue.Submit(requests)
	s.wait(requests...)
}

// request makes one, with borrowed memory where it needs some.
func (s *site) request(op wire.Op, off, length int64) *wire.Request {
	s.t.Helper()
	r := &wire.Request{Op: op, Offset: off, Length: length}
	if op == wire.OpRead || op == wire.OpWrite {
		data, err := s.queue.Borrow(s.t.Context(), int(length))
		if err != nil {
			s.t.Fatal(err)
		}
		r.Data = data
	}
	return r
}

func (s *site) close(plugins ...*plugin) {
	s.t.Helper()
	if err := s.queue.Close(); err != nil {
		s.t.Error(err)
	}
	for _, p := range plugins {
		p.rings.Wait()
	}
}
