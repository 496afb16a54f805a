// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/sdk/memstore"
	"github.com/flexnbd/flexnbd/sdk/store"
)

const (
	diskSize = 2 << 20
	patience = 30 * time.Second
)

// end is the host's end of a ring.
type end struct {
	t      testing.TB
	socket *os.File
	memory *Memory
	ended  chan error // Run's error
	server *Server
	once   sync.Once
}

// serve begins a ring on s.
func serve(t testing.TB, s store.Store) *end {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	memory, err := NewMemory(testMemory)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := unix.FcntlInt(memory.File.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	server, err := NewServer(s, os.NewFile(uintptr(fds[1]), "theirs"), os.NewFile(uintptr(theirs), "memory"), testMemory)
	if err != nil {
		t.Fatal(err)
	}
	e := &end{t: t, socket: os.NewFile(uintptr(fds[0]), "ours"), memory: memory, ended: make(chan error, 1), server: server}
	if err := e.socket.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	go func() { e.ended <- server.Run() }()
	t.Cleanup(func() { _ = e.hangUp() })
	return e
}

// hangUp ends the ring and returns what the other end says to that.
func (e *end) hangUp() (err error) {
	e.once.Do(func() {
		_ = e.socket.Close()
		err = errors.Join(<-e.ended, e.memory.Close())
	})
	return err
}

func (e *end) send(requests ...Request) {
	e.t.Helper()
	var b []byte
	for _, r := range requests {
		b = r.Append(b)
	}
	if _, err := e.socket.Write(b); err != nil {
		e.t.Fatal(err)
	}
}

// next returns the next n completions by their cookies.
func (e *end) next(n int) map[uint64]Completion {
	e.t.Helper()
	got := map[uint64]Completion{}
	for range n {
		var b [CompletionSize]byte
		if _, err := io.ReadFull(e.socket, b[:]); err != nil {
			e.t.Fatalf("after %d of %d completions: %v", len(got), n, err)
		}
		c := DecodeCompletion(b[:])
		if _, twice := got[c.Cookie]; twice {
			e.t.Errorf("request %#x was completed twice", c.Cookie)
		}
		got[c.Cookie] = c
	}
	return got
}

func (e *end) want(c Completion) {
	e.t.Helper()
	if got := e.next(1)[c.Cookie]; got != c {
		e.t.Errorf("completion %+v, want %+v", got, c)
	}
}

func TestRequestsAreCarriedOut(t *testing.T) {
	e := serve(t, memstore.New(diskSize))
	model := make([]byte, diskSize)
	random := rand.New(rand.NewPCG(1, 2))
	const slots, slotSize = 8, testMemory / 8
	for round := range 200 {
		var batch []Request
		for i := range slots {
			// Each in a part of the disk of its own, so that order means nothing.
			part := int64(diskSize / slots)
			length := 1 + random.Int64N(slotSize)
			r := Request{
				Cookie: uint64(round*slots + i), Length: uint32(length), Payload: uint32(i * slotSize),
				Offset: int64(i)*part + random.Int64N(part-length+1), Op: Op(1 + random.IntN(3)),
			}
			at, memory := model[r.Offset:][:length], e.memory.Bytes[r.Payload:][:length]
			switch r.Op {
			case OpWrite:
				for j := range memory {
					memory[j] = byte(random.Uint32())
				}
				copy(at, memory)
			case OpZero:
				r.Payload = 0
				clear(at)
			}
			batch = append(batch, r)
		}
		e.send(batch...)
		got := e.next(len(batch))
		for _, r := range batch {
			if c := got[r.Cookie]; c.Errno != 0 || c.Length != r.Length {
				t.Fatalf("%+v: %+v", r, c)
			}
			if r.Op == OpRead && !bytes.Equal(e.memory.Bytes[r.Payload:][:r.Length], model[r.Offset:][:r.Length]) {
				t.Fatalf("%+v read something else", r)
			}
		}
	}
	if err := e.hangUp(); err != nil {
		t.Error(err)
	}
}

// odd is a store with calls of a test's own.
type odd struct {
	store.Store
	read func(ctx context.Context, p []byte, off int64) error
}

func (o odd) ReadAt(ctx context.Context, p []byte, off int64) error { return o.read(ctx, p, off) }

// A hole may be longer than the memory.
func TestHoleNeedsNoMemory(t *testing.T) {
	e := serve(t, memstore.New(diskSize))
	e.send(Request{Cookie: 1, Op: OpZero, Length: diskSize})
	e.want(Completion{Cookie: 1, Length: diskSize})
}

func TestErrnoOfTheStoreTravels(t *testing.T) {
	for _, err := range []error{syscall.ENOSPC, store.ErrReadOnly, errors.New("no errno at all")} {
		e := serve(t, odd{memstore.New(diskSize), func(context.Context, []byte, int64) error { return err }})
		e.send(Request{Cookie: 7, Op: OpRead, Length: 100})
		e.want(Completion{Cookie: 7, Errno: store.Errno(err)})
	}
}

// A call that takes its time keeps back neither what came with it nor what comes later,
// whether it is the first of its kind or calls have been slow before.
func TestSlowCallHoldsNobodyUp(t *testing.T) {
	release := make(chan struct{})
	e := serve(t, odd{memstore.New(diskSize), func(_ context.Context, p []byte, off int64) error {
		if off == 0 {
			<-release
		}
		p[0] = 1
		return nil
	}})
	slow := uint64(0)
	for round := range 50 {
		base := uint64(1000 * (round + 1))
		e.send(Request{Cookie: slow, Op: OpRead, Length: 1}, Request{Cookie: base, Op: OpRead, Offset: 1, Length: 1},
			Request{Cookie: base + 1, Op: OpPing}, Request{Cookie: base + 2, Op: OpZero, Offset: 5, Length: 100})
		slow++
		got := e.next(3)
		for i := range uint64(3) {
			if c, ok := got[base+i]; !ok || c.Errno != 0 {
				t.Fatalf("round %d: request %d was not completed, or failed: %+v", round, i, c)
			}
		}
	}
	close(release)
	if got := e.next(int(slow)); len(got) != int(slow) {
		t.Errorf("%d of %d slow requests were completed", len(got), slow)
	}
}

// While the host hangs up a call is under way, which is asked to give up.
func TestHangingUpAsksCallsToGiveUp(t *testing.T) {
	begun := make(chan struct{})
	e := serve(t, odd{memstore.New(diskSize), func(ctx context.Context, _ []byte, _ int64) error {
		close(begun)
		<-ctx.Done()
		return ctx.Err()
	}})
	e.send(Request{Op: OpRead, Length: 1})
	<-begun
	if err := e.hangUp(); err != nil {
		t.Error(err)
	}
}

func TestCloseEndsIt(t *testing.T) {
	e := serve(t, memstore.New(diskSize))
	e.send(Request{Cookie: 1, Op: OpPing})
	e.want(Completion{Cookie: 1})
	e.server.Close()
	if _, err := e.socket.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the host reads %v", err)
	}
	if err := e.hangUp(); err != nil {
		t.Error(err)
	}
}

func TestRuleBreakerIsHungUpOn(t *testing.T) {
	for words, message := range map[string][]byte{
		"operation":             Request{Op: 9}.Append(nil),
		"on a disk of":          Request{Op: OpRead, Offset: diskSize, Length: 1}.Append(nil),
		"in a memory of":        Request{Op: OpRead, Length: 4096, Payload: testMemory}.Append(nil),
		"nothing is to be said": append(Request{Op: OpPing}.Append(nil)[:RequestSize-1], 1),
	} {
		e := serve(t, memstore.New(diskSize))
		if _, err := e.socket.Write(message); err != nil {
			t.Fatal(err)
		}
		if _, err := e.socket.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("%s: the host reads %v", words, err)
		}
		if err := e.hangUp(); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("the ring ended with %v, want %q", err, words)
		}
	}
}

// Messages come in whatever pieces the socket makes of them.
func TestMessagesInPieces(t *testing.T) {
	e := serve(t, memstore.New(diskSize))
	var b []byte
	for i := range uint64(5) {
		b = Request{Cookie: i, Op: OpRead, Length: 10}.Append(b)
	}
	for _, one := range b {
		if _, err := e.socket.Write([]byte{one}); err != nil {
			t.Fatal(err)
		}
	}
	if got := e.next(5); len(got) != 5 {
		t.Errorf("got %v", got)
	}
}

func TestMemoryIsWhatWasAnnounced(t *testing.T) {
	plain, err := unix.MemfdCreate("unsealed", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Ftruncate(plain, 4096); err != nil {
		t.Fatal(err)
	}
	if _, err := mapMemory(os.NewFile(uintptr(plain), "unsealed"), 4096); err == nil || !strings.Contains(err.Error(), "sealed") {
		t.Errorf("memory that can shrink: %v", err)
	}
	m, err := NewMemory(8192)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := mapMemory(m.File, 4096); err == nil || !strings.Contains(err.Error(), "8192") {
		t.Errorf("memory of another size: %v", err)
	}
}

// Nobody who has the memory can take it away from the others.
func TestMemoryKeepsItsSize(t *testing.T) {
	m, err := NewMemory(8192)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.Close() }()
	for _, size := range []int64{0, 4096, 16384} {
		if err := unix.Ftruncate(int(m.File.Fd()), size); !errors.Is(err, unix.EPERM) {
			t.Errorf("a change to %d bytes: %v, want EPERM", size, err)
		}
	}
	if _, err := unix.FcntlInt(m.File.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE); !errors.Is(err, unix.EPERM) {
		t.Errorf("another seal: %v, want EPERM", err)
	}
}

// FuzzServer has a host that says anything: each request that keeps the rules is
// completed once, in the order that the rules allow, and nothing else is.
func FuzzServer(f *testing.F) {
	f.Add(Request{Cookie: 1, Op: OpRead, Length: 4096}.Append(nil))
	f.Add(append(Request{Cookie: 1, Op: OpWrite, Length: 4096, Payload: 4096}.Append(nil), Request{Cookie: 2, Op: OpZero, Length: diskSize}.Append(nil)...))
	f.Add(Request{Cookie: 3, Op: 77}.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		b = b[:min(len(b), MaxInFlight*RequestSize)]
		e := serve(t, memstore.New(diskSize))
		var want []Request
		for rest := b; len(rest) >= RequestSize; rest = rest[RequestSize:] {
			r, reserved := DecodeRequest(rest)
			if reserved != 0 || r.check(diskSize, testMemory) != nil {
				want = nil // it may be hung up on before any was carried out
				break
			}
			want = append(want, r)
		}
		if len(b) > 0 {
			if _, err := e.socket.Write(b); err != nil {
				t.Fatal(err)
			}
		}
		if want == nil {
			return
		}
		seen := map[uint64]int{}
		for range want {
			var message [CompletionSize]byte
			if _, err := io.ReadFull(e.socket, message[:]); err != nil {
				t.Fatal(err)
			}
			seen[DecodeCompletion(message[:]).Cookie]++
		}
		for _, r := range want {
			seen[r.Cookie]--
		}
		for cookie, n := range seen {
			if n != 0 {
				t.Errorf("request %#x was completed %d times too often", cookie, n)
			}
		}
	})
}
