// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/sdk/fdstore/looptest"
	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// fullDevice is a loop device of which the kernel can write less than it takes.
func fullDevice(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		looptest.New(t, looptest.Options{}) // says what is missing
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return looptest.New(t, looptest.Options{Size: 4 << 20, Dir: dir}).Path
}

// The premise: Linux tells of a lost write once to each open file description, so
// of the two processes that share one, the second flushes in peace.
func TestCursorKnowsWhatASharedDescriptionHasForgotten(t *testing.T) {
	path := fullDevice(t)
	shared, err := os.OpenFile(path, os.O_RDWR|unix.O_EXCL, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = shared.Close() }()
	c, err := newErrorCursor(shared)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.close() }()
	if err := failure(c, 4<<20); err != nil {
		t.Fatalf("before anything has happened: %v", err)
	}
	if _, err := shared.WriteAt(bytes.Repeat([]byte{1}, 2<<20), 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fdatasync(int(shared.Fd())); err == nil {
		t.Fatal("the device has taken everything: this test has lost its point")
	}
	if err := unix.Fdatasync(int(shared.Fd())); err != nil {
		t.Fatalf("Linux has told twice (%v): nothing is forgotten, and no cursor needed", err)
	}
	if err := failure(c, 4<<20); !errors.Is(err, unix.EIO) && !errors.Is(err, unix.ENOSPC) {
		t.Errorf("the cursor says %v", err)
	}
}

func TestCursorFollowsAFileThatWasMoved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	c, err := newErrorCursor(f)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.close() }()
	if err := failure(c, 1); err != nil {
		t.Error(err)
	}
}

func TestLossThatACrashedFlushKeptToItselfFailsEveryFlush(t *testing.T) {
	real := failure
	var lost atomic.Bool
	failure = func(c *errorCursor, size int64) error {
		if err := real(c, size); err != nil || !lost.Swap(false) { // Linux tells once
			return err
		}
		return unix.EIO
	}
	t.Cleanup(func() { failure = real })
	d := torture(t, nil)
	d.crash()
	if err := d.Flush(t.Context()); err != nil {
		t.Fatalf("a crash alone fails a flush: %v", err)
	}
	lost.Store(true)
	result := d.inFlight("keep", "write", func() error { return d.WriteAt(t.Context(), []byte("p"), 5000, store.FUA) })
	d.signal(unix.SIGKILL)
	if err := <-result; !is(err, unix.EIO) || !strings.Contains(err.Error(), "could not write back") {
		t.Errorf("the write with FUA in flight: %v", err)
	}
	d.crash() // the kernel has nothing to tell any more
	if err := d.PunchHole(t.Context(), 0, 10, store.FUA); !is(err, unix.EIO) {
		t.Errorf("a punch with FUA: %v", err)
	}
	for op, call := range d.calls(t.Context()) {
		if err := call(); (err != nil) != (op == "flush") {
			t.Errorf("%s: %v", op, err)
		}
	}
}

func TestFlushIsNotRepeatedWhereALossCanNotBeKnown(t *testing.T) {
	d := torture(t, map[string]string{"lease": "/dev/null"}) // which has no pages to write back
	forced := func() error { return d.WriteAt(t.Context(), []byte("p"), 0, store.FUA) }
	for op, call := range map[string]func() error{"flush": d.calls(t.Context())["flush"], "write": forced} {
		result := d.inFlight("keep", op, call)
		d.signal(unix.SIGKILL)
		if err := <-result; !is(err, wire.ErrPluginGone) || store.Errno(err) != syscall.EIO {
			t.Errorf("%s with a lost answer: %v", op, err)
		}
		if err := call(); err != nil {
			t.Errorf("%s afterwards: %v", op, err)
		}
	}
	result := d.inFlight("keep", "write", d.calls(t.Context())["write"])
	d.signal(unix.SIGKILL)
	if err := <-result; err != nil {
		t.Errorf("a plain write: %v", err)
	}
}
