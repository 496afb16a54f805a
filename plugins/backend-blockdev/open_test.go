// SPDX-License-Identifier: GPL-3.0-or-later

package blockdev

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/sdk/fdstore/looptest"
	"github.com/flexnbd/flexnbd/sdk/store"
)

// opened opens a device that is closed with the test.
func opened(t *testing.T, path string, readOnly bool) store.Store {
	t.Helper()
	s, err := Open(t.Context(), path, readOnly)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func wantBusy(t *testing.T, path string) {
	t.Helper()
	for _, readOnly := range []bool{false, true} {
		_, err := Open(t.Context(), path, readOnly)
		wantError(t, err, unix.EBUSY, path, "mounted", "served")
	}
}

func TestOpenRefusesWhatIsNoDevice(t *testing.T) {
	dir := t.TempDir()
	fifo, socket, circle := filepath.Join(dir, "fifo"), filepath.Join(dir, "socket"), filepath.Join(dir, "circle")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if err := os.Symlink(circle, circle); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "file.img")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, readOnly := range []bool{false, true} {
		for path, c := range map[string]struct {
			errno unix.Errno
			word  string
		}{
			filepath.Join(dir, "missing"): {unix.ENOENT, "attach the device first"},
			file:                          {unix.ENOTBLK, "use --backend file"},
			file + "/device":              {unix.ENOTDIR, "not a directory"},
			dir:                           {unix.EISDIR, "a directory"},
			fifo:                          {unix.ENOTBLK, "a FIFO"},
			socket:                        {unix.ENOTBLK, "a socket"},
			"/dev/null":                   {unix.ENOTBLK, "a character device"},
			circle:                        {unix.ELOOP, "circle"},
			"a\x00b":                      {unix.EINVAL, "cannot be opened"},
		} {
			_, err := Open(t.Context(), path, readOnly)
			wantError(t, err, c.errno, path, c.word)
		}
	}
	_, err = Open(t.Context(), "", false)
	wantError(t, err, unix.EINVAL, "--file")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Open(ended, file, false); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended, error is %v", err)
	}
}

func TestOpenRefusesDevicesThatCannotServe(t *testing.T) {
	empty := looptest.New(t, looptest.Options{})
	_, err := Open(t.Context(), empty.Path, false)
	wantError(t, err, unix.ENOMEDIUM, empty.Path, "has no bytes")
	if _, err := Open(t.Context(), empty.Path, false); !errors.Is(err, unix.ENOMEDIUM) {
		t.Errorf("the refused device was kept: %v", err)
	}

	readOnly := looptest.New(t, looptest.Options{Size: size, ReadOnly: true})
	_, err = Open(t.Context(), readOnly.Path, false)
	wantError(t, err, unix.EPERM, readOnly.Path, "--read-only")
	if !opened(t, readOnly.Path, true).Info().ReadOnly {
		t.Error("a device that was opened read-only may be written")
	}

	node := filepath.Join(t.TempDir(), "nothing")
	if err := unix.Mknod(node, unix.S_IFBLK|0o600, int(unix.Mkdev(240, 77))); err != nil {
		t.Fatal(err)
	}
	_, err = Open(t.Context(), node, false)
	wantError(t, err, unix.ENXIO, node, "no device behind this node")
}

func TestDeviceInUseIsRefused(t *testing.T) {
	for _, readOnly := range []bool{false, true} { // the two that are there, see doc.go
		loop := looptest.New(t, looptest.Options{Size: size})
		other := filepath.Join(t.TempDir(), "other-node")
		if err := unix.Mknod(other, unix.S_IFBLK|0o600, int(loop.Number)); err != nil {
			t.Fatal(err)
		}
		first, err := Open(t.Context(), loop.Path, readOnly)
		if err != nil {
			t.Fatal(err)
		}
		wantBusy(t, loop.Path)
		wantBusy(t, other)
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
		opened(t, other, readOnly)
	}
}

func TestMountedDeviceIsRefused(t *testing.T) {
	loop := looptest.New(t, looptest.Options{Size: 8 << 20})
	if out, err := exec.Command("mkfs.ext4", "-q", loop.Path).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4 (of e2fsprogs): %v\n%s", err, out)
	}
	dir := t.TempDir()
	mount := func() error { return unix.Mount(loop.Path, dir, "ext4", unix.MS_RDONLY, "") }
	if err := mount(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }) // if the test ends early
	wantBusy(t, loop.Path)
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
	opened(t, loop.Path, true)
	if err := mount(); !errors.Is(err, unix.EBUSY) {
		t.Errorf("a device that is served could be mounted (%v)", err)
	}
}

func TestDiskAndItsPartitionAreNotServedTogether(t *testing.T) {
	loop := looptest.New(t, looptest.Options{Size: 4 << 20})
	one := loop.Partition(t, 1, 1<<20, 1<<20)
	two := loop.Partition(t, 2, 2<<20, 1<<20+512)
	first := opened(t, one, false)
	wantBusy(t, loop.Path)
	second := opened(t, two, false)
	if n := second.Info().Size; n != 1<<20+512 {
		t.Errorf("the partition has %d bytes", n)
	}
	if i := first.Info(); !i.CanPunch {
		t.Errorf("the partition has not the abilities of its disk: %+v", i)
	}
	p := bytes.Repeat([]byte{7}, 1<<20)
	if err := errors.Join(first.WriteAt(t.Context(), p, 0, store.FUA), first.PunchHole(t.Context(), 512<<10, 512<<10, store.FUA)); err != nil {
		t.Fatal(err)
	}
	clear(p[512<<10:])
	got, err := os.ReadFile(loop.Image)
	if err != nil || !bytes.Equal(got[1<<20:2<<20], p) || bytes.IndexByte(append(got[:1<<20:1<<20], got[2<<20:]...), 7) >= 0 {
		t.Errorf("the bytes are not where the partition is (%v)", err)
	}
}

func TestOpenChangesNothingAndFollowsLinks(t *testing.T) {
	loop := looptest.New(t, looptest.Options{Size: size})
	want := bytes.Repeat([]byte("flexnbd!"), size/8)
	if err := os.WriteFile(loop.Image, want, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(loop.Path, link); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	disk, err := Open(ctx, link, false)
	if err != nil {
		t.Fatal(err)
	}
	cancel() // the store outlives it
	got := make([]byte, size)
	if err := disk.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, want) || disk.Info().Size != size {
		t.Errorf("%d bytes, and not those of the device (%v)", disk.Info().Size, err)
	}
	if err := disk.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(loop.Image); err != nil || !bytes.Equal(got, want) {
		t.Errorf("opening changed the device (%v)", err)
	}
}

func TestDescriptorIsNeitherInheritedNorNonBlocking(t *testing.T) {
	loop := looptest.New(t, looptest.Options{Size: size})
	f, err := openDevice(loop.Path, false)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fdFlags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0)
	if err != nil || fdFlags&unix.FD_CLOEXEC == 0 {
		t.Errorf("a program started from here would inherit the device (%v)", err)
	}
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if err != nil || flags&(unix.O_NONBLOCK|unix.O_APPEND) != 0 || flags&unix.O_ACCMODE != unix.O_RDWR || f.Name() != loop.Path {
		t.Errorf("the device is open as %s with flags %#o (%v)", f.Name(), flags, err)
	}
}
