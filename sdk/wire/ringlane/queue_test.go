// SPDX-License-Identifier: Apache-2.0

package ringlane

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/sdk/memstore"
	"github.com/flexnbd/flexnbd/sdk/rangelock"
	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/storetest"
	"github.com/flexnbd/flexnbd/sdk/wire"
	"github.com/flexnbd/flexnbd/sdk/wire/ring"
	"github.com/flexnbd/flexnbd/sdk/wire/wiretest"
)

// A store behind a ring is the store that it was.
func TestSuite(t *testing.T) {
	storetest.Run(t, func(t testing.TB, size int64) store.Store {
		s := memstore.New(size)
		ranges := &rangelock.Lock{}
		p := serves(t, s)
		behind := closedAfter{wiretest.Locked(s, ranges), p}
		lane := New(ranges, &calls{store: s})
		lane.Use(p)
		return wiretest.OverQueue(behind, func(sink wire.Sink) wire.Queue {
			q, err := lane.NewQueue(wire.NewQueue(context.Background(), behind, sink), sink)
			if err != nil {
				t.Fatal(err)
			}
			eventually(t, "a ring", func() bool { return q.(*queue).line.Load() != nil })
			return q
		})
	})
}

// closedAfter is closed when the plugin's rings have ended, as its process sees to.
type closedAfter struct {
	store.Store
	plugin *plugin
}

func (c closedAfter) Close() error {
	c.plugin.rings.Wait()
	return c.Store.Close()
}

// counting is a store that counts what comes over the ring.
type counting struct {
	store.Store
	reads chan int64
}

func (c counting) ReadAt(ctx context.Context, p []byte, off int64) error {
	c.reads <- off
	return c.Store.ReadAt(ctx, p, off)
}

func TestRequestsTakeTheRing(t *testing.T) {
	reads := make(chan int64, 100)
	s := memstore.New(diskSize)
	p := serves(t, counting{s, reads})
	site := newSite(t, p)
	defer site.close(p)
	site.do(site.request(wire.OpRead, 4096, 100))
	if off := <-reads; off != 4096 {
		t.Errorf("the plugin read at %d", off)
	}
	if made, again := site.calls.count(); made+again != 0 {
		t.Errorf("%d calls, %d repeats", made, again)
	}
}

// More requests than there are slots wait for one.
func TestMoreRequestsThanSlots(t *testing.T) {
	s := memstore.New(diskSize)
	p := serves(t, s)
	site := newSite(t, p)
	defer site.close(p)
	var all []*wire.Request
	for i := range int64(4 * ring.MaxInFlight) {
		all = append(all, &wire.Request{Op: wire.OpZero, Offset: i * 4096, Length: 4096})
	}
	site.do(all...)
	for _, r := range all {
		if r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	if made, again := site.calls.count(); made+again != 0 {
		t.Errorf("%d calls, %d repeats", made, again)
	}
}

// What a ring fails is a call once more, which says why.
func TestFailureIsExplainedByACall(t *testing.T) {
	s := memstore.New(diskSize)
	p := serves(t, failing{Store: s})
	site := newSite(t, p)
	defer site.close(p)
	words := errors.New("disk 7 has no room: " + syscall.ENOSPC.Error())
	site.calls.store = failing{s, words}
	r := site.request(wire.OpWrite, 0, 512)
	site.do(r)
	if !errors.Is(r.Err, words) {
		t.Errorf("the write ended with %v", r.Err)
	}
	if made, again := site.calls.count(); made != 1 || again != 0 {
		t.Errorf("%d calls, %d repeats", made, again)
	}
}

// failing fails writes, with ENOSPC unless it is told otherwise.
type failing struct {
	store.Store
	err error
}

func (f failing) WriteAt(context.Context, []byte, int64, store.Flags) error {
	if f.err != nil {
		return f.err
	}
	return syscall.ENOSPC
}

// silentPlugin takes requests and answers none until its ring ends.
func silentPlugin(t testing.TB) *plugin {
	return newPlugin(t, func(socket, memory *os.File, _ int) {
		_ = memory.Close()
		_, _ = io.Copy(io.Discard, socket)
		_ = socket.Close()
	})
}

// A process that is lost takes requests with it: they are repeated once it is gone, and
// hold their ranges until then.
func TestRequestsSurviveTheirProcess(t *testing.T) {
	ends := make(chan *os.File, 1)
	p := newPlugin(t, func(socket, memory *os.File, _ int) {
		_ = memory.Close()
		ends <- socket
	})
	site := newSite(t, p)
	socket := <-ends
	write, read, zero := site.request(wire.OpWrite, 0, 4096), site.request(wire.OpRead, 8192, 4096), site.request(wire.OpZero, 16384, 4096)
	for i := range write.Data.Bytes {
		write.Data.Bytes[i] = byte(i)
	}
	site.queue.Submit([]*wire.Request{write, read, zero})
	_ = socket.Close() // the process ends
	eventually(t, "the requests to be repeated", func() bool { _, again := site.calls.count(); return again == 3 })
	for _, r := range []*wire.Request{write, read, zero} {
		if claim := site.ranges.TryLock(r.Offset, r.Offset+r.Length, true); claim != nil {
			t.Errorf("the range of the %v is free before the process is gone", r.Op)
		}
	}
	next := serves(t, site.store)
	site.lane.Use(next)
	close(p.gone)
	site.wait(write, read, zero)
	if write.Err != nil || read.Err != nil || !errors.Is(zero.Err, errNotTwice) {
		t.Errorf("write: %v, read: %v, zero: %v", write.Err, read.Err, zero.Err)
	}
	got := make([]byte, 4096)
	if err := site.store.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, write.Data.Bytes) {
		t.Errorf("the store has something else (%v)", err)
	}
	site.attached() // to the next one
	site.do(site.request(wire.OpRead, 0, 512))
	site.close(p, next)
}

// A process may be gone and somebody else have its end of a ring, a child of it, say.
func TestRingEndsWithItsProcess(t *testing.T) {
	sockets, release := make(chan *os.File, 1), make(chan struct{})
	p := newPlugin(t, func(socket, memory *os.File, _ int) {
		_ = memory.Close()
		sockets <- socket
		<-release
		_ = socket.Close()
	})
	site := newSite(t, p)
	read := site.request(wire.OpRead, 0, 512)
	site.queue.Submit([]*wire.Request{read})
	socket := <-sockets
	site.lane.Use(nil)
	site.lane.Finish(p)
	// Too late.
	if _, err := socket.Write(ring.Completion{Cookie: cookie(0, 1), Length: 512}.Append(nil)); err == nil {
		t.Error("a completion was taken from a process that is gone")
	}
	if made, again := site.calls.count(); made != 0 || again > 1 {
		t.Errorf("%d calls, %d repeats", made, again)
	}
	close(p.gone)
	site.wait(read)
	if read.Err != nil || p.hungUp.Load() != 0 {
		t.Errorf("the read ended with %v; the process was told %d times that it had hung up", read.Err, p.hungUp.Load())
	}
	close(release)
	site.close(p)
}

// What a process has completed before its end counts.
func TestCompletionsBeforeTheEndCount(t *testing.T) {
	answered := make(chan struct{})
	p := says(t, func(r ring.Request) []byte {
		defer close(answered)
		return ring.Completion{Cookie: r.Cookie, Length: r.Length}.Append(nil)
	})
	site := newSite(t, p)
	write := site.request(wire.OpWrite, 0, 512)
	site.queue.Submit([]*wire.Request{write})
	<-answered
	eventually(t, "the completion to be on its way", func() bool {
		n, _ := unix.IoctlGetInt(int(socketOf(t, site)), unix.TIOCINQ)
		site.mu.Lock()
		defer site.mu.Unlock()
		return n > 0 || site.done[write] > 0
	})
	site.lane.Finish(p)
	site.wait(write)
	if made, again := site.calls.count(); made+again != 0 {
		t.Errorf("%d calls, %d repeats", made, again)
	}
	close(p.gone)
	site.close(p)
}

// socketOf is the descriptor of a site's ring.
func socketOf(t *testing.T, s *site) (fd uintptr) {
	t.Helper()
	if r := s.queue.line.Load(); r != nil {
		_ = r.raw.Control(func(d uintptr) { fd = d })
	}
	return fd
}

func TestRingThatHangsUpIsToldOf(t *testing.T) {
	hangUp := make(chan struct{})
	p := newPlugin(t, func(socket, memory *os.File, _ int) {
		_ = memory.Close()
		<-hangUp
		_ = socket.Close()
	})
	site := newSite(t, p)
	close(hangUp)
	eventually(t, "the process to be told", func() bool { return p.hungUp.Load() == 1 })
	site.do(site.request(wire.OpRead, 0, 512)) // a call
	site.close(p)
}

// A socket that is full takes the rest later.
func TestFullSocket(t *testing.T) {
	s := memstore.New(diskSize)
	read := make(chan struct{})
	p := newPlugin(t, func(socket, memory *os.File, size int) {
		<-read
		server, err := ring.NewServer(s, socket, memory, size)
		if err != nil {
			t.Error(err)
			return
		}
		if err := server.Run(); err != nil {
			t.Error(err)
		}
	})
	p.room = 1 // as little as there may be
	site := newSite(t, p)
	var all []*wire.Request
	for i := range int64(2 * ring.MaxInFlight) {
		all = append(all, &wire.Request{Op: wire.OpZero, Offset: i * 4096, Length: 4096})
		site.queue.Submit(all[i:])
	}
	r := site.queue.line.Load()
	r.mu.Lock()
	left, waiting := len(r.out), len(r.waiting)
	r.mu.Unlock()
	if left == 0 || waiting != ring.MaxInFlight {
		t.Errorf("%d bytes are left to send and %d requests wait: this test has lost its point", left, waiting)
	}
	close(read)
	site.wait(all...)
	site.close(p)
}

// Requests whose range is in use wait for it as calls, behind whoever has it.
func TestRangeInUseIsWaitedFor(t *testing.T) {
	s := memstore.New(diskSize)
	p := serves(t, s)
	site := newSite(t, p)
	defer site.close(p)
	claim := site.ranges.TryLock(0, 4096, true)
	waits, free := site.request(wire.OpWrite, 0, 512), site.request(wire.OpWrite, 4096, 512)
	site.queue.Submit([]*wire.Request{waits, free})
	site.wait(free)
	site.mu.Lock()
	early := site.done[waits]
	site.mu.Unlock()
	if early != 0 {
		t.Error("a write was carried out while its range was in use")
	}
	site.ranges.Unlock(claim)
	site.wait(waits)
}

func TestWithoutARingEverythingIsACall(t *testing.T) {
	p := newPlugin(t, nil)
	p.refuses = errors.New("no more descriptors")
	site := newSite(t, p)
	site.do(site.request(wire.OpWrite, 0, 512), site.request(wire.OpRead, 4096, 512))
	eventually(t, "the reason to be told", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.unopened) == 1 && errors.Is(p.unopened[0], p.refuses)
	})
	site.close()
}

// says is a plugin that answers the first request, or the first few, with a message of
// its own, and then hangs on.
func says(t testing.TB, answer func(ring.Request) []byte) *plugin {
	return newPlugin(t, func(socket, memory *os.File, _ int) {
		defer func() { _ = socket.Close() }()
		_ = memory.Close()
		var b [ring.RequestSize]byte
		for {
			if _, err := io.ReadFull(socket, b[:]); err != nil {
				return
			}
			r, _ := ring.DecodeRequest(b[:])
			if _, err := socket.Write(answer(r)); err != nil {
				return
			}
		}
	})
}

// However a plugin breaks the rules, its ring ends, the disk is told how, and no request
// is lost.
func TestRuleBreakersAreToldOf(t *testing.T) {
	completion := func(change func(*ring.Completion)) func(ring.Request) []byte {
		return func(r ring.Request) []byte {
			c := ring.Completion{Cookie: r.Cookie, Length: r.Length}
			change(&c)
			return c.Append(nil)
		}
	}
	for words, answer := range map[string]func(ring.Request) []byte{
		"request 0x100000000 for 512 bytes was completed with 511": completion(func(c *ring.Completion) { c.Length-- }),
		"was completed with 1073741824":                            completion(func(c *ring.Completion) { c.Length = 1 << 30 }),
		"errno 5000":                                               completion(func(c *ring.Completion) { c.Errno, c.Length = 5000, 0 }),
		"512 bytes are said":                                       completion(func(c *ring.Completion) { c.Errno = syscall.EIO }),
		"0x100000001, which":                                       completion(func(c *ring.Completion) { c.Cookie++ }),
		"0x100000100, which":                                       completion(func(c *ring.Completion) { c.Cookie += pingSlot }),
		"0x200000000, which":                                       completion(func(c *ring.Completion) { c.Cookie += 1 << 32 }),
		"0xffffffffffffffff, which":                                completion(func(c *ring.Completion) { c.Cookie = 1<<64 - 1 }),
		"0x100000000, which is not": func(r ring.Request) []byte {
			c := ring.Completion{Cookie: r.Cookie, Length: r.Length}
			return c.Append(c.Append(nil))
		},
		"0x100, which is not under way": func(ring.Request) []byte { return ring.Completion{Cookie: pingSlot}.Append(nil) }, // not asked
	} {
		t.Run(words, func(t *testing.T) {
			p := says(t, answer)
			site := newSite(t, p)
			r := site.request(wire.OpWrite, 0, 512)
			site.queue.Submit([]*wire.Request{r})
			if how := <-p.broke; !strings.Contains(how.Error(), words) {
				t.Errorf("the disk was told %q", how)
			}
			close(p.gone)
			site.wait(r)
			if r.Err != nil {
				t.Error(r.Err)
			}
			site.close(p)
		})
	}
}

// FuzzCompletions has a plugin that says anything: each request ends once, and the queue
// can be closed.
func FuzzCompletions(f *testing.F) {
	good := ring.Completion{Cookie: cookie(0, 1), Length: 512}
	f.Add(good.Append(nil), uint8(1))
	f.Add(good.Append(ring.Completion{Cookie: cookie(1, 1), Errno: syscall.EIO}.Append(nil)), uint8(2))
	f.Add(good.Append(good.Append(nil)), uint8(3))
	f.Add(ring.Completion{Cookie: cookie(2, 1), Length: 511}.Append(nil), uint8(4))
	f.Add([]byte("rubbish of twenty by"), uint8(200))
	f.Fuzz(func(t *testing.T, b []byte, n uint8) {
		asked := make(chan struct{})
		p := newPlugin(t, func(socket, memory *os.File, _ int) {
			_ = memory.Close()
			<-asked
			_, _ = socket.Write(b)
			_ = socket.Close()
		})
		close(p.gone)
		site := newSite(t, p)
		var all []*wire.Request
		for i := range int64(n) {
			all = append(all, site.request(wire.OpRead, i*512, 512))
		}
		site.queue.Submit(all)
		close(asked)
		site.wait(all...)
		for _, r := range all {
			if r.Err != nil {
				t.Errorf("a read ended with %v", r.Err)
			}
			site.queue.Return(r.Data)
		}
		site.close(p)
	})
}

func TestPluginThatDoesNotReadIsSilent(t *testing.T) {
	p := silentPlugin(t)
	site := newSite(t, p)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		site.lane.Watch(ctx, time.Millisecond, 20*time.Millisecond)
	}()
	r := site.request(wire.OpRead, 0, 512)
	site.queue.Submit([]*wire.Request{r})
	<-p.silent
	cancel()
	<-ended
	site.queue.line.Load().hangUp() // the process is ended
	close(p.gone)
	site.wait(r)
	site.close(p)
}

// A disk may be slow for as long as it likes, if its plugin reads.
func TestSlowDiskIsNotSilent(t *testing.T) {
	release := make(chan struct{})
	pings := make(chan struct{}, 1000)
	p := newPlugin(t, func(socket, memory *os.File, _ int) {
		defer func() { _ = socket.Close() }()
		_ = memory.Close()
		var b [ring.RequestSize]byte
		for {
			if _, err := io.ReadFull(socket, b[:]); err != nil {
				return
			}
			r, _ := ring.DecodeRequest(b[:])
			answer := ring.Completion{Cookie: r.Cookie, Length: r.Length}.Append(nil)
			if r.Op == ring.OpPing {
				pings <- struct{}{}
				_, _ = socket.Write(answer)
				continue
			}
			go func() {
				<-release
				_, _ = socket.Write(answer)
			}()
		}
	})
	site := newSite(t, p)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		site.lane.Watch(ctx, time.Millisecond, patience)
	}()
	r := site.request(wire.OpRead, 0, 512)
	site.queue.Submit([]*wire.Request{r})
	for range 10 {
		<-pings
	}
	cancel()
	<-ended
	if len(p.silent) != 0 {
		t.Error("a plugin that answers pings is silent")
	}
	close(release)
	site.wait(r)
	site.close(p)
}

// The memory's pages go back when nobody has needed any for a while, and its content is
// whatever was borrowed's until then.
func TestPagesGoBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, err := newArena()
		if err != nil {
			t.Fatal(err)
		}
		keep, all := a.tryBorrow(4096), a.tryBorrow(1<<20)
		all.Bytes[5], keep.Bytes[5] = 1, 1
		a.giveBack(all)
		time.Sleep(3 * idleTime)
		if a.memory.Bytes[5] != 1 {
			t.Error("pages went back while memory was lent")
		}
		a.giveBack(keep)
		time.Sleep(3 * idleTime)
		if a.memory.Bytes[5] != 0 || a.memory.Bytes[1<<20+5] != 0 {
			t.Error("the pages are still there")
		}
		a.close()
	})
}
