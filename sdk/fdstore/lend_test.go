// SPDX-License-Identifier: Apache-2.0

package fdstore

import (
	"bytes"
	"context"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/sdk/fdstore/looptest"
)

// tinyTmpfs mounts a file system on which loop devices run out of space.
func tinyTmpfs(t *testing.T) string {
	t.Helper()
	looptest.New(t, looptest.Options{}) // skips without root
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// The kernel tells of a lost write once. Nothing that a borrower does, and nobody
// with a descriptor of his own, may take that from the store.
func TestLostWriteOfABorrowerFailsTheStoresFlush(t *testing.T) {
	s, loop := device(t, looptest.Options{Dir: tinyTmpfs(t), Size: 16 << 20}, linux)
	t.Cleanup(func() { _ = s.Close() })
	borrowed, err := unix.FcntlInt(s.Lend().File().Fd(), unix.F_DUPFD_CLOEXEC, 0) // as one that was sent
	if err != nil {
		t.Fatal(err)
	}
	// More than there is room for below the device: it gets lost on its way.
	if _, err := unix.Pwrite(borrowed, bytes.Repeat([]byte("x"), 4<<20), 4<<20); err != nil {
		t.Fatal(err)
	}
	other := reopen(t, loop.Path, os.O_RDONLY)
	if err := unix.Fdatasync(int(other.Fd())); err == nil {
		t.Fatal("4 MiB found room in 1 MiB")
	}
	p := make([]byte, 4096)
	if _, err := unix.Pread(borrowed, p, 4<<20); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Preadv2(borrowed, [][]byte{p}, 0, unix.RWF_NOWAIT); err != nil && err != unix.EAGAIN {
		t.Fatal(err)
	}
	if _, err := unix.Pwrite(borrowed, p, 0); err != nil {
		t.Fatal(err)
	}
	out := image(t, t.TempDir(), 0, os.O_RDWR)
	off := int64(0)
	if n, err := unix.Sendfile(int(out.Fd()), borrowed, &off, len(p)); n != len(p) || err != nil {
		t.Fatalf("sendfile: %d, %v", n, err)
	}
	if err := unix.Close(borrowed); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time it is the latch that says it
		wantError(t, s.Flush(context.Background()), unix.EIO, "may be lost")
	}
}
