// SPDX-License-Identifier: Apache-2.0

package fdstore

import (
	"context"
	"errors"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/sdk/store"
)

// losing is a kernel that tells of one lost write, to the first sync that asks.
func losing(lost error) syscalls {
	var once sync.Once
	told := func() (err error) {
		once.Do(func() { err = lost })
		return err
	}
	sys := linux
	sys.fdatasync = func(int) error { return told() }
	sys.pwriteFUA = func(fd int, p []byte, off int64) (int, error) {
		if err := told(); err != nil {
			return 0, err
		}
		return linux.pwriteFUA(fd, p, off)
	}
	return sys
}

// wantLatched ends the test unless everything that syncs fails with lost, and
// everything that does not, works.
func wantLatched(t *testing.T, s *Store, lost error) {
	t.Helper()
	ctx := context.Background()
	p := make([]byte, 512)
	wantError(t, s.Flush(ctx), lost)
	wantError(t, s.WriteAt(ctx, p, 0, store.FUA), lost)
	wantError(t, s.PunchHole(ctx, 0, 512, store.FUA), lost)
	if err := errors.Join(s.WriteAt(ctx, p, 0, 0), s.PunchHole(ctx, 0, 512, 0), s.ReadAt(ctx, p, 0)); err != nil {
		t.Fatalf("after a failed sync the disk is not even served: %v", err)
	}
}

func TestFailedFlushFailsEverySyncAfterIt(t *testing.T) {
	s := serve(t, image(t, t.TempDir(), 4096, os.O_RDWR), Options{}, losing(unix.EIO))
	wantError(t, s.Flush(context.Background()), unix.EIO, "may be lost", s.file.Name())
	wantLatched(t, s, unix.EIO)
}

func TestFailedFUAWriteFailsEverySyncAfterIt(t *testing.T) {
	// The plain write that tells ENOSPC apart succeeds: it was the sync.
	for _, lost := range []error{unix.EIO, unix.ENOSPC, unix.EDQUOT} {
		s := serve(t, image(t, t.TempDir(), 4096, os.O_RDWR), Options{}, losing(lost))
		wantError(t, s.WriteAt(context.Background(), make([]byte, 512), 0, store.FUA), lost)
		wantLatched(t, s, lost)
	}
}

func TestFailedFUAPunchFailsEverySyncAfterIt(t *testing.T) {
	s := serve(t, image(t, t.TempDir(), 4096, os.O_RDWR), Options{}, losing(unix.EIO))
	wantError(t, s.PunchHole(context.Background(), 0, 512, store.FUA), unix.EIO)
	wantLatched(t, s, unix.EIO)
}

func TestFUAWithoutRoomIsNoLostWrite(t *testing.T) {
	full := true
	sys := linux
	sys.pwrite = func(fd int, p []byte, off int64) (int, error) {
		if full {
			return 0, unix.ENOSPC
		}
		return linux.pwrite(fd, p, off)
	}
	sys.pwriteFUA = func(fd int, p []byte, off int64) (int, error) {
		if full {
			return 0, unix.ENOSPC
		}
		return linux.pwriteFUA(fd, p, off)
	}
	s := serve(t, image(t, t.TempDir(), 4096, os.O_RDWR), Options{}, sys)
	ctx := context.Background()
	wantError(t, s.WriteAt(ctx, make([]byte, 512), 0, store.FUA), store.ErrNoSpace)
	full = false
	if err := errors.Join(s.WriteAt(ctx, make([]byte, 512), 0, store.FUA), s.Flush(ctx)); err != nil {
		t.Fatalf("with room again: %v", err)
	}
}

func TestCancelledSyncIsNoLostWrite(t *testing.T) {
	s := serve(t, image(t, t.TempDir(), 4096, os.O_RDWR), Options{}, linux)
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	wantError(t, s.WriteAt(ended, make([]byte, 512), 0, store.FUA), context.Canceled)
	wantError(t, s.Flush(ended), context.Canceled)
	if err := s.Flush(context.Background()); err != nil {
		t.Fatalf("Flush after cancelled ones: %v", err)
	}
}

// The kernel tells the first of two syncs, whose return is slow. The second one
// was told that all is well, and must not believe it.
func TestSyncWaitsForThoseBesideIt(t *testing.T) {
	var l latch
	if err := errors.Join(l.enter(), l.enter()); err != nil {
		t.Fatal(err)
	}
	second := make(chan error, 1)
	go func() { second <- l.leave(nil) }()

	// A lock that somebody waits for exclusively is not given out shared.
	for deadline := time.Now().Add(10 * time.Second); l.running.TryRLock(); runtime.Gosched() {
		l.running.RUnlock()
		if time.Now().After(deadline) {
			t.Fatal("the second sync does not wait")
		}
	}
	select {
	case err := <-second:
		t.Fatalf("the second sync returned %v before the first had told how it fared", err)
	default:
	}
	wantError(t, l.leave(unix.EIO), unix.EIO)
	wantError(t, <-second, unix.EIO)
}
