// SPDX-License-Identifier: GPL-3.0-or-later

package file

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOpenRefusesWhatIsNoImage(t *testing.T) {
	dir := t.TempDir()
	fifo, socket, loop := filepath.Join(dir, "fifo"), filepath.Join(dir, "socket"), filepath.Join(dir, "loop")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if err := os.Symlink(loop, loop); err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(dir, "missing.img")

	for _, readOnly := range []bool{false, true} {
		for path, c := range map[string]struct {
			errno unix.Errno
			word  string
		}{
			missing:                           {unix.ENOENT, "create the image first"},
			image(t, t.TempDir(), 0) + "/img": {unix.ENOTDIR, "not a directory"},
			dir:                               {unix.EISDIR, "a directory"},
			fifo:                              {unix.EINVAL, "a FIFO"},
			socket:                            {unix.EINVAL, "a socket"},
			"/dev/null":                       {unix.EINVAL, "a character device"},
			loop:                              {unix.ELOOP, "circle"},
			"a\x00b":                          {unix.EINVAL, "cannot be opened"},
		} {
			_, err := Open(t.Context(), path, readOnly)
			wantError(t, err, c.errno, path, c.word)
		}
	}
	if _, err := os.Stat(missing); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing image was created (%v)", err)
	}
	_, err = Open(t.Context(), "", false)
	wantError(t, err, unix.EINVAL, "--file")
}

// What takes the image's place between the look and the opening is refused too,
// and a FIFO does not hold it up.
func TestOpenFileLooksAgain(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := openFile(fifo, true)
	wantError(t, err, unix.EINVAL, fifo, "a FIFO")
	_, err = openFile(dir, true)
	wantError(t, err, unix.EISDIR, dir, "a directory; name the image")
	_, err = openFile(dir, false)
	wantError(t, err, unix.EISDIR, dir)
}

func TestDescriptorIsNeitherInheritedNorNonBlocking(t *testing.T) {
	f, err := openFile(image(t, t.TempDir(), 4096), false)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fdFlags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0)
	if err != nil || fdFlags&unix.FD_CLOEXEC == 0 {
		t.Errorf("a program started from here would inherit the image (%v)", err)
	}
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if err != nil || flags&(unix.O_NONBLOCK|unix.O_APPEND) != 0 || flags&unix.O_ACCMODE != unix.O_RDWR {
		t.Errorf("the image is open with flags %#o (%v)", flags, err)
	}
}

func TestServedImageIsRefused(t *testing.T) {
	path := image(t, t.TempDir(), 4096)
	first, err := Open(t.Context(), path, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, readOnly := range []bool{false, true} {
		_, err := Open(t.Context(), path, readOnly)
		wantError(t, err, unix.EBUSY, path, "already being served")
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Open(t.Context(), path, false)
	if err != nil {
		t.Fatalf("after the first server has closed the image: %v", err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestOpenChangesNothingAndFollowsLinks(t *testing.T) {
	path := image(t, t.TempDir(), 0)
	want := bytes.Repeat([]byte("flexnbd"), 100)
	if err := os.WriteFile(path, want, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	disk, err := Open(t.Context(), link, false)
	if err != nil {
		t.Fatal(err)
	}
	if size := disk.Info().Size; size != int64(len(want)) {
		t.Errorf("size is %d, want %d", size, len(want))
	}
	if err := disk.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
		t.Errorf("opening changed the image (%v)", err)
	}
}

func TestStoreOutlivesTheContextOfOpen(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	disk, err := Open(ctx, image(t, t.TempDir(), 4096), false)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := disk.WriteAt(t.Context(), []byte{1}, 0, 0); err != nil {
		t.Error(err)
	}
	if err := disk.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(ctx, image(t, t.TempDir(), 4096), false); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended, error is %v", err)
	}
}
