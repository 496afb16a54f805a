// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/flexnbd/flexnbd/sdk/memstore"
	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/storetest"
	"github.com/flexnbd/flexnbd/sdk/wire"
	"github.com/flexnbd/flexnbd/sdk/wire/wiretest"
)

// patience is for what should take no time at all.
const patience = 20 * time.Second

func TestStoreOverTheWireKeepsTheContract(t *testing.T) {
	storetest.Run(t, func(t testing.TB, size int64) store.Store {
		return wiretest.Store(t, opener(memstore.New(size)))
	})
}

// opener opens s, whatever disk it is asked for.
func opener(s store.Store) wire.Opener {
	return func(context.Context, wire.Disk) (store.Store, error) { return s, nil }
}

// scripted is a store whose calls a test can watch and hold.
type scripted struct {
	store.Store
	fail   error                     // what every call returns
	call   func(ctx context.Context) // runs inside reads and writes
	closed atomic.Bool

	mu    sync.Mutex
	sizes []int // of the reads and writes that came, in order
}

func newScripted(size int64) *scripted { return &scripted{Store: memstore.New(size)} }

func (s *scripted) enter(ctx context.Context, p []byte) error {
	s.mu.Lock()
	s.sizes = append(s.sizes, len(p))
	s.mu.Unlock()
	if s.call != nil {
		s.call(ctx)
	}
	return s.fail
}

func (s *scripted) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := s.enter(ctx, p); err != nil {
		return err
	}
	return s.Store.ReadAt(ctx, p, off)
}

func (s *scripted) WriteAt(ctx context.Context, p []byte, off int64, flags store.Flags) error {
	if err := s.enter(ctx, p); err != nil {
		return err
	}
	return s.Store.WriteAt(ctx, p, off, flags)
}

func (s *scripted) PunchHole(ctx context.Context, off, length int64, flags store.Flags) error {
	if s.fail != nil {
		return s.fail
	}
	return s.Store.PunchHole(ctx, off, length, flags)
}

func (s *scripted) Extents(ctx context.Context, off, length int64) ([]store.Extent, error) {
	if s.fail != nil {
		return nil, s.fail
	}
	return s.Store.Extents(ctx, off, length)
}

func (s *scripted) Flush(ctx context.Context) error { return errors.Join(s.fail, s.Store.Flush(ctx)) }

func (s *scripted) Close() error {
	s.closed.Store(true)
	return errors.Join(s.fail, s.Store.Close())
}

func TestDiskAndOptionsReachTheBackend(t *testing.T) {
	want := wire.Disk{Location: "/a b/ü\xff", ReadOnly: true, Options: map[string]string{"k": "v", "empty": ""}}
	var got wire.Disk
	line := wiretest.New(t, wire.Served{Open: func(_ context.Context, d wire.Disk) (store.Store, error) {
		got = d
		return memstore.New(0), nil
	}})
	if _, err := line.Client.OpenDisk(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the backend was given %v, want %v", got, want)
	}
	for _, disk := range []wire.Disk{{Options: map[string]string{"\xff": "v"}}, {Options: map[string]string{"k": "\xff"}}} {
		if _, err := line.Client.OpenDisk(t.Context(), disk); !errors.Is(err, syscall.EINVAL) || !strings.Contains(err.Error(), "UTF-8") {
			t.Errorf("opening %+q: %v, want an error about UTF-8", disk.Location, err)
		}
	}
}

func TestErrnoAndMessageSurviveTheWire(t *testing.T) {
	s := newScripted(4096)
	remote := wiretest.Store(t, opener(s))
	calls := map[string]func() error{
		"ReadAt":    func() error { return remote.ReadAt(t.Context(), make([]byte, 1), 0) },
		"WriteAt":   func() error { return remote.WriteAt(t.Context(), make([]byte, 1), 0, 0) },
		"PunchHole": func() error { return remote.PunchHole(t.Context(), 0, 1, 0) },
		"Extents":   func() error { _, err := remote.Extents(t.Context(), 0, 1); return err },
		"Flush":     func() error { return remote.Flush(t.Context()) },
	}
	for _, c := range []struct {
		err  error
		want syscall.Errno
	}{
		{syscall.ENOSPC, syscall.ENOSPC},
		{syscall.EROFS, syscall.EROFS},
		{syscall.EPERM, syscall.EPERM},
		{syscall.ENOTSUP, syscall.ENOTSUP},
		{syscall.EIO, syscall.EIO},
		{syscall.EOVERFLOW, syscall.EOVERFLOW},
		{syscall.EDQUOT, syscall.EDQUOT},
		{&fs.PathError{Op: "write", Path: "/x", Err: fmt.Errorf("quota: %w", syscall.ENOSPC)}, syscall.ENOSPC},
		{errors.New("the cable is out"), syscall.EIO},
	} {
		s.fail = c.err
		for name, call := range calls {
			err := call()
			if got := store.Errno(err); got != c.want {
				t.Errorf("%s failed with %v: errno %d arrives, want %d", name, c.err, got, c.want)
			}
			if err == nil || err.Error() != c.err.Error() {
				t.Errorf("%s failed with %q: message %q arrives", name, c.err, err)
			}
		}
	}
	if err := remote.Close(); store.Errno(err) != syscall.EIO || err.Error() != "the cable is out" {
		t.Errorf("Close: %v", err)
	}
}

func TestErrorTextIsBoundedAndValid(t *testing.T) {
	s := newScripted(4096)
	remote := wiretest.Store(t, opener(s))
	for _, text := range []string{strings.Repeat("x", 1<<20), strings.Repeat("ü", 4095/2) + "xüü", "bad \xff\xfe bytes", ""} {
		s.fail = errors.New(text)
		got := remote.Flush(t.Context()).Error()
		if len(got) > 4096 || len(got) == 0 || !utf8.ValidString(got) {
			t.Errorf("a text of %d bytes arrives as %d bytes, %.20q", len(text), len(got), got)
		}
		if keep := min(len(text), 4000); utf8.ValidString(text) && !strings.HasPrefix(got, text[:keep]) {
			t.Errorf("a text of %d bytes arrives as %.20q", len(text), got)
		}
	}
}

func TestOpenErrorSurvivesTheWire(t *testing.T) {
	line := wiretest.New(t, wire.Served{Open: func(context.Context, wire.Disk) (store.Store, error) {
		return nil, &fs.PathError{Op: "open", Path: "/disk", Err: syscall.EACCES}
	}})
	_, err := line.Client.OpenDisk(t.Context(), wire.Disk{})
	if !errors.Is(err, syscall.EACCES) || err.Error() != "open /disk: permission denied" {
		t.Errorf("OpenDisk: %v", err)
	}
}

// info is a store with wrong facts.
type info struct {
	*scripted
	info store.Info
}

func (s info) Info() store.Info { return s.info }

func TestStoreWithWrongFactsIsClosedAndRefused(t *testing.T) {
	s := info{newScripted(0), store.Info{Size: -1}}
	line := wiretest.New(t, wire.Served{Open: opener(s)})
	if _, err := line.Client.OpenDisk(t.Context(), wire.Disk{Location: "x"}); err == nil || !strings.Contains(err.Error(), "size -1") {
		t.Errorf("OpenDisk: %v", err)
	}
	if !s.closed.Load() {
		t.Error("the refused store was not closed")
	}
}

func TestPayloadsOver32MiBPassInOneMessage(t *testing.T) {
	const size = 33 << 20
	s := newScripted(size)
	remote := wiretest.Store(t, opener(s))
	p := bytes.Repeat([]byte("flexnbd"), size/7+1)[:size]
	if err := remote.WriteAt(t.Context(), p, 0, 0); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, size)
	if err := remote.ReadAt(t.Context(), got, 0); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, p) {
		t.Error("other bytes came back than were written")
	}
	if !slices.Equal(s.sizes, []int{size, size}) {
		t.Errorf("the store was called with %v bytes", s.sizes)
	}
}

// hold makes the store's reads and writes wait for release. entered gets the
// context of each.
func (s *scripted) hold(t *testing.T) (entered chan context.Context, release func()) {
	entered = make(chan context.Context, 16)
	gate := make(chan struct{})
	s.call = func(ctx context.Context) {
		entered <- ctx
		<-gate
	}
	open := atomic.Bool{}
	release = func() {
		if !open.Swap(true) {
			close(gate)
		}
	}
	t.Cleanup(release)
	return entered, release
}

// within waits for a value that should come at once.
func within[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("%s: nothing within %v", what, patience)
		panic("unreachable")
	}
}

// async runs f and returns where its result will be.
func async[T any](f func() T) <-chan T {
	c := make(chan T, 1)
	go func() { c <- f() }()
	return c
}

func TestCancelledWriteWaitsForItsAnswer(t *testing.T) {
	s := newScripted(4096)
	entered, release := s.hold(t)
	remote := wiretest.Store(t, opener(s))
	ctx, cancel := context.WithCancel(t.Context())
	answer := async(func() error { return remote.WriteAt(ctx, []byte("new"), 0, 0) })
	within(t, "write in the store", entered)
	cancel()
	release()
	if err := within(t, "write", answer); err != nil {
		t.Errorf("a cancelled write returns %v, want what the store said", err)
	}
	got := make([]byte, 3)
	if err := s.Store.ReadAt(t.Context(), got, 0); err != nil || string(got) != "new" {
		t.Errorf("the disk holds %q, error %v", got, err)
	}
}

func TestCallsWithAnEndedContextAreNotMade(t *testing.T) {
	s := newScripted(4096)
	remote := wiretest.Store(t, opener(s))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, err := range map[string]error{
		"ReadAt":    remote.ReadAt(ctx, make([]byte, 1), 0),
		"WriteAt":   remote.WriteAt(ctx, make([]byte, 1), 0, 0),
		"PunchHole": remote.PunchHole(ctx, 0, 1, 0),
		"Flush":     remote.Flush(ctx),
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(s.sizes) != 0 {
		t.Errorf("the store was called: %v", s.sizes)
	}
}

func TestCancelledReadReturnsAtOnceAndReachesTheStore(t *testing.T) {
	s := newScripted(4096)
	entered, _ := s.hold(t)
	remote := wiretest.Store(t, opener(s))
	ctx, cancel := context.WithCancel(t.Context())
	answer := async(func() error { return remote.ReadAt(ctx, make([]byte, 1), 0) })
	inside := within(t, "read in the store", entered)
	cancel()
	if err := within(t, "read", answer); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled read returns %v", err)
	}
	within(t, "end of the store's context", inside.Done())
}

func TestDeadPluginFailsCallsUnderWayAndLater(t *testing.T) {
	s := newScripted(4096)
	entered, _ := s.hold(t)
	line := wiretest.New(t, wire.Served{Open: opener(s)})
	remote, err := line.Client.OpenDisk(t.Context(), wire.Disk{})
	if err != nil {
		t.Fatal(err)
	}
	read := async(func() error { return remote.ReadAt(t.Context(), make([]byte, 1), 0) })
	within(t, "read in the store", entered)
	write := async(func() error { return remote.WriteAt(t.Context(), make([]byte, 1), 0, 0) })
	within(t, "write in the store", entered)
	line.Cut()
	for name, err := range map[string]error{
		"read under way":  within(t, "read", read),
		"write under way": within(t, "write", write),
		"later flush":     remote.Flush(t.Context()),
		"later close":     remote.Close(),
	} {
		if !errors.Is(err, wire.ErrPluginGone) || store.Errno(err) != syscall.EIO {
			t.Errorf("%s: %v, want ErrPluginGone with EIO", name, err)
		}
	}
}

func TestDiskThatWasOpenedForNobodyIsClosed(t *testing.T) {
	s := newScripted(4096)
	entered := make(chan struct{})
	line := wiretest.New(t, wire.Served{Open: func(ctx context.Context, _ wire.Disk) (store.Store, error) {
		close(entered)
		<-ctx.Done() // a backend that does not look
		return s, nil
	}})
	ctx, cancel := context.WithCancel(t.Context())
	answer := async(func() error { _, err := line.Client.OpenDisk(ctx, wire.Disk{}); return err })
	within(t, "Open in the backend", entered)
	cancel()
	if err := within(t, "OpenDisk", answer); !errors.Is(err, context.Canceled) {
		t.Errorf("OpenDisk: %v", err)
	}
	await(t, "the store is closed", s.closed.Load)
}

// await waits for a state.
func await(t *testing.T, what string, reached func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !reached() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestDeadlineThatTheStoreNoticesFirstIsADeadline(t *testing.T) {
	s := newScripted(4096)
	s.call = func(ctx context.Context) { <-ctx.Done() }
	s.fail = context.DeadlineExceeded
	remote := wiretest.Store(t, opener(s))
	for range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		if err := remote.ReadAt(ctx, make([]byte, 1), 0); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("ReadAt: %v", err)
		}
		cancel()
	}
}
