// SPDX-License-Identifier: Apache-2.0

package filelane

import (
	"bytes"
	"context"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/sdk/fdstore"
	"github.com/flexnbd/flexnbd/sdk/rangelock"
	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/wire"
	"github.com/flexnbd/flexnbd/sdk/wire/wiretest"
)

// patience bounds whatever a test waits for.
const patience = 20 * time.Second

// bench is a lane and one queue on it.
type bench struct {
	t      *testing.T
	file   *os.File
	lent   *wire.Lent
	lane   *Lane
	ranges *rangelock.Lock
	queue  wire.Queue
	behind *counted
	done   chan []*wire.Request // what each call of the sink got
}

// counted counts what comes to the backend.
type counted struct {
	store.Store
	mu    sync.Mutex
	calls []string
}

func (c *counted) note(call string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = append(c.calls, call)
}

func (c *counted) seen() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.calls, " ")
}

func (c *counted) ReadAt(ctx context.Context, p []byte, off int64) error {
	c.note("read")
	return c.Store.ReadAt(ctx, p, off)
}

func (c *counted) WriteAt(ctx context.Context, p []byte, off int64, flags store.Flags) error {
	c.note("write")
	return c.Store.WriteAt(ctx, p, off, flags)
}

func (c *counted) PunchHole(ctx context.Context, off, length int64, flags store.Flags) error {
	c.note("punch")
	return c.Store.PunchHole(ctx, off, length, flags)
}

const benchSize = 8 << 20

// newBench makes a bench over an image full of bytes that tell their block.
func newBench(t *testing.T, dir string) *bench {
	t.Helper()
	f := image(t, dir, benchSize)
	if _, err := f.WriteAt(numbered(0, benchSize), 0); err != nil {
		t.Fatal(err)
	}
	s, err := fdstore.New(f, fdstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, file: f, lent: lent(t, f), ranges: &rangelock.Lock{}, behind: &counted{Store: s}, done: make(chan []*wire.Request, 1000)}
	b.lane = New(b.ranges)
	b.lane.Use(b.lent)
	sink := func(done []*wire.Request) { b.done <- append([]*wire.Request(nil), done...) }
	b.queue = b.lane.NewQueue(wire.NewQueue(context.Background(), b.behind, sink), sink)
	t.Cleanup(func() {
		if err := b.queue.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// numbered returns bytes of which each tells the number of its 4 KiB block.
func numbered(off, n int64) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte((off + int64(i)) >> 12)
	}
	return p
}

func (b *bench) request(op wire.Op, off, length int64, flags store.Flags) *wire.Request {
	r := &wire.Request{Op: op, Offset: off, Length: length, Flags: flags}
	if op == wire.OpRead || op == wire.OpWrite {
		r.Data = &wire.Payload{Bytes: make([]byte, length)}
	}
	return r
}

func (b *bench) read(off, length int64) *wire.Request { return b.request(wire.OpRead, off, length, 0) }

// next waits for one call of the sink.
func (b *bench) next() []*wire.Request {
	b.t.Helper()
	select {
	case done := <-b.done:
		return done
	case <-time.After(patience):
		b.t.Fatal("nothing completes")
		return nil
	}
}

// nothing checks that no request completes that was not waited for.
func (b *bench) nothing() {
	b.t.Helper()
	select {
	case done := <-b.done:
		b.t.Fatalf("%v of %d bytes at %d has completed", done[0].Op, done[0].Length, done[0].Offset)
	default:
	}
}

// collect waits until n requests have completed, all of them well.
func (b *bench) collect(n int) {
	b.t.Helper()
	for n > 0 {
		for _, r := range b.next() {
			if r.Err != nil {
				b.t.Errorf("%v at %d: %v", r.Op, r.Offset, r.Err)
			}
			n--
		}
	}
	b.nothing()
}

// slowWrites makes the device take no write until answer is called, which the lane
// knows already.
func (b *bench) slowWrites() (answer func()) {
	b.lane.stall.last.Store(int64(time.Since(epoch) + time.Hour))
	held := make(chan struct{})
	b.lane.file.Load().pwrite = func(fd int, p []byte, off int64) (int, error) {
		<-held
		return unix.Pwrite(fd, p, off)
	}
	return func() { close(held) }
}

func TestCachedReadsCompleteTogetherAndAtOnce(t *testing.T) {
	b := newBench(t, wiretest.FolderOnDisk(t))
	var batch []*wire.Request
	for i := range int64(32) {
		batch = append(batch, b.read(i*8192+512, 4096))
	}
	b.queue.Submit(batch)
	if len(b.done) != 1 {
		t.Fatalf("the sink was called %d times when Submit returned", len(b.done))
	}
	if got := len(b.next()); got != len(batch) {
		t.Errorf("the sink got %d of %d requests", got, len(batch))
	}
	for _, r := range batch {
		if r.Err != nil || !bytes.Equal(r.Data.Bytes, numbered(r.Offset, r.Length)) {
			t.Errorf("read at %d: %v, or other bytes", r.Offset, r.Err)
		}
	}
	if calls := b.behind.seen(); calls != "" {
		t.Errorf("the backend was asked to %s", calls)
	}
}

func TestBytesOfManyReadsAreNotHeldBack(t *testing.T) {
	b := newBench(t, wiretest.FolderOnDisk(t))
	var batch []*wire.Request
	for i := range int64(16) {
		batch = append(batch, b.read(i<<17, together/4))
	}
	b.queue.Submit(batch)
	if len(b.done) != 4 {
		t.Errorf("the sink was called %d times for %d requests of a quarter of what goes together", len(b.done), len(batch))
	}
	b.collect(len(batch))
}

func TestLongReadThatIsAloneIsLent(t *testing.T) {
	b := newBench(t, wiretest.FolderOnDisk(t))
	read := func(off, length int64) *wire.Request {
		r := b.read(off, length)
		r.MayLend = true
		return r
	}
	for _, off := range []int64{0, 5, benchSize - longRead} {
		r := read(off, longRead)
		b.queue.Submit([]*wire.Request{r})
		b.collect(1)
		if r.Lent == nil {
			t.Fatalf("a read of %d bytes at %d was not lent", r.Length, off)
		}
		got := make([]byte, r.Length)
		if err := r.Lent.ReadAt(got, off); err != nil || !bytes.Equal(got, numbered(off, r.Length)) {
			t.Errorf("lent bytes at %d: %v, or other bytes", off, err)
		}
		r.Lent.Leave()
	}
	for what, batch := range map[string][]*wire.Request{
		"a short read":             {read(0, longRead-1)},
		"a read that did not ask":  {b.read(0, longRead)},
		"reads that are not alone": {read(0, longRead), read(longRead, 2*longRead)},
	} {
		b.queue.Submit(batch)
		b.collect(len(batch))
		for _, r := range batch {
			if r.Lent != nil {
				t.Errorf("%s got a descriptor", what)
				r.Lent.Leave()
			} else if !bytes.Equal(r.Data.Bytes, numbered(r.Offset, r.Length)) {
				t.Errorf("%s got other bytes", what)
			}
		}
	}
}

// TestWriteThatWaitedSendsOthersToGoroutines has the device take its time once.
func TestWriteThatWaitedSendsOthersToGoroutines(t *testing.T) {
	b := newBench(t, wiretest.FolderOnDisk(t))
	goroutines := 0
	b.lane.file.Load().pwrite = func(fd int, p []byte, off int64) (int, error) {
		b.lane.mu.Lock()
		goroutines = b.lane.slow
		b.lane.mu.Unlock()
		if off == 0 {
			time.Sleep(stallTime + time.Millisecond) // this is the device
		}
		return unix.Pwrite(fd, p, off)
	}
	for i, want := range []int{0, 1} {
		b.queue.Submit([]*wire.Request{b.request(wire.OpWrite, int64(i)*4096, 4096, 0)})
		b.collect(1)
		if goroutines != want {
			t.Errorf("write %d was carried out by %d goroutines", i, goroutines)
		}
	}
}

// TestWhatIsNotCachedIsLeftToOthers looks at the decisions, which decide who
// waits for the device.
func TestWhatIsNotCachedIsLeftToOthers(t *testing.T) {
	b := newBench(t, wiretest.FolderOnDisk(t))
	f := newFile(b.lent)
	write := b.request(wire.OpWrite, 4096+1, 4096, 0)
	whole := b.request(wire.OpWrite, 8192, 8192, 0)
	long := b.read(0, 1<<20)
	cachedOrNot := func(want bool) {
		t.Helper()
		// To ask for what is not there may begin to read it ahead.
		drop := func() {
			if !want {
				dropCache(t, b.file)
			}
		}
		drop()
		if got := f.readCached(make([]byte, 4096), 0) == 4096; got != want {
			t.Errorf("page is taken for cached: %v", got)
		}
		drop()
		if got := f.lends(long); got != want {
			t.Errorf("long read is lent: %v", got)
		}
		drop()
		if got := f.writesAtOnce(write); got != want {
			t.Errorf("write to parts of pages is done at once: %v", got)
		}
		if !f.writesAtOnce(whole) {
			t.Error("write of whole pages is not done at once")
		}
	}
	cachedOrNot(true)
	cachedOrNot(false)
	dropCache(t, b.file)
	r, w := b.read(4096, 3*4096), write
	b.queue.Submit([]*wire.Request{r, w})
	b.collect(2)
	if want := numbered(r.Offset, r.Length); !bytes.Equal(r.Data.Bytes[2*4096:], want[2*4096:]) {
		t.Error("read of what was not cached got other bytes")
	}
	if calls := b.behind.seen(); calls != "" {
		t.Errorf("the backend was asked to %s", calls)
	}
}

// TestPartlyCachedReadIsWhole has the first page in the cache and the rest not.
func TestPartlyCachedReadIsWhole(t *testing.T) {
	b := newBench(t, wiretest.FolderOnDisk(t))
	dropCache(t, b.file)
	warm := b.read(0, 4096)
	b.queue.Submit([]*wire.Request{warm})
	b.collect(1)
	r := b.read(0, 1<<20)
	b.queue.Submit([]*wire.Request{r})
	b.collect(1)
	if !bytes.Equal(r.Data.Bytes, numbered(0, 1<<20)) {
		t.Error("other bytes")
	}
}

func TestOnlyBytesTakeTheDescriptor(t *testing.T) {
	b := newBench(t, wiretest.FolderOnDisk(t))
	b.queue.Submit([]*wire.Request{
		b.request(wire.OpWrite, 0, 4096, store.FUA),
		b.request(wire.OpWrite, 4096, 4096, 0),
		b.request(wire.OpFlush, 0, 0, 0),
	})
	b.collect(3)
	b.queue.Submit([]*wire.Request{b.request(wire.OpZero, 0, 8192, 0)})
	b.collect(1)
	if calls := b.behind.seen(); calls != "write punch" {
		t.Errorf("the backend was asked to %s", calls)
	}
}

func TestBackendExplainsWhatTheDescriptorFails(t *testing.T) {
	b := newBench(t, wiretest.FolderOnDisk(t))
	if err := b.file.Truncate(4096); err != nil {
		t.Fatal(err)
	}
	good, bad := b.read(0, 4096), b.read(0, 8192)
	b.queue.Submit([]*wire.Request{good, bad})
	var got []*wire.Request
	for len(got) < 2 {
		got = append(got, b.next()...)
	}
	if good.Err != nil {
		t.Errorf("the read of what is left: %v", good.Err)
	}
	if bad.Err == nil || !strings.Contains(bad.Err.Error(), "has shrunk it") {
		t.Errorf("the read of what is gone: %v", bad.Err)
	}
	if calls := b.behind.seen(); calls != "read" {
		t.Errorf("the backend was asked to %s", calls)
	}
}

func TestWriteWaitsForTheRangeLockAlone(t *testing.T) {
	b := newBench(t, wiretest.FolderOnDisk(t))
	claim, err := b.ranges.Lock(t.Context(), 4096, 8192, true)
	if err != nil {
		t.Fatal(err)
	}
	write := func(off int64) *wire.Request { return b.request(wire.OpWrite, off, 4096, 0) }
	held, reads := write(4096), b.read(4096, 4096)
	b.queue.Submit([]*wire.Request{held, write(0), write(8192), reads})
	if got := len(b.next()); got != 3 {
		t.Errorf("%d requests completed at once, not the three that need no lock", got)
	}
	b.nothing()
	if !bytes.Equal(reads.Data.Bytes, numbered(4096, 4096)) {
		t.Error("the write that has to wait has been carried out")
	}
	b.ranges.Unlock(claim)
	b.collect(1)
}

func TestOnlySoManyGoroutinesAreAtTheDevice(t *testing.T) {
	b := newBench(t, wiretest.FolderOnDisk(t))
	answer := b.slowWrites()
	const n = 3 * maxSlow
	for i := range int64(n) {
		b.queue.Submit([]*wire.Request{b.request(wire.OpWrite, i*4096, 4096, 0)})
	}
	b.lane.mu.Lock()
	slow, waiting := b.lane.slow, len(b.lane.waiting)
	b.lane.mu.Unlock()
	if slow != maxSlow || waiting != n-maxSlow {
		t.Errorf("%d goroutines at work and %d requests waiting", slow, waiting)
	}
	b.nothing()
	answer()
	b.collect(n)
}

func TestEndOfTheLoanGoesUnnoticed(t *testing.T) {
	b := newBench(t, wiretest.FolderOnDisk(t))
	answer := b.slowWrites()
	b.queue.Submit([]*wire.Request{b.request(wire.OpWrite, 0, 4096, 0)})
	b.lent.End()
	select {
	case <-b.lent.Ended():
		t.Fatal("the loan is over while a write is under way")
	default:
	}
	after := b.read(1<<20, 4096)
	b.queue.Submit([]*wire.Request{after})
	b.collect(1)
	if calls := b.behind.seen(); calls != "read" || !bytes.Equal(after.Data.Bytes, numbered(1<<20, 4096)) {
		t.Errorf("after the end the backend was asked to %q, or other bytes came", calls)
	}
	answer()
	b.collect(1)
	select {
	case <-b.lent.Ended():
	case <-time.After(patience):
		t.Fatal("the loan does not end")
	}
}

// TestLoansComeAndGoUnderLoad changes the loan all the time.
func TestLoansComeAndGoUnderLoad(t *testing.T) {
	b := newBench(t, wiretest.FolderOnDisk(t))
	stop := make(chan struct{})
	var changing sync.WaitGroup
	changing.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			var next *wire.Lent
			if i%2 == 0 {
				next = lent(t, b.file)
			}
			if before := b.lane.Use(next); before != nil {
				before.End()
				<-before.Ended()
			}
		}
	})
	for i := range int64(500) {
		read := b.read(i%64*4096, 64<<10)
		read.MayLend = true
		short := b.read(i%64*8192, 4096)
		b.queue.Submit([]*wire.Request{read, short})
		b.collect(2)
		if !bytes.Equal(short.Data.Bytes, numbered(short.Offset, 4096)) {
			t.Fatal("other bytes")
		}
		if read.Lent != nil {
			read.Lent.Leave()
		}
	}
	close(stop)
	changing.Wait()
}
