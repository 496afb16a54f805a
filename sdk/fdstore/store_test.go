// SPDX-License-Identifier: Apache-2.0

package fdstore

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/storetest"
)

// image makes a sparse file of size bytes in dir and opens it with flag.
func image(t testing.TB, dir string, size int64, flag int) *os.File {
	t.Helper()
	f, err := os.CreateTemp(dir, "image-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(f.Name()) })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return reopen(t, f.Name(), flag)
}

func reopen(t testing.TB, path string, flag int) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, flag, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// serve makes a Store with some system calls replaced.
func serve(t testing.TB, f *os.File, o Options, sys syscalls) *Store {
	t.Helper()
	s, err := newStore(f, o, sys)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// poor is a kernel, or a file system, that has nothing that is not required.
func poor() syscalls {
	sys := linux
	sys.fallocate = func(int, uint32, int64, int64) error { return unix.EOPNOTSUPP }
	sys.lseek = func(int, int64, int) (int64, error) { return 0, unix.EINVAL }
	sys.pwriteFUA = func(int, []byte, int64) (int, error) { return 0, unix.ENOSYS }
	return sys
}

// stuttering is a kernel that does only part of what it is asked for, or is
// interrupted, every time the rules let it.
func stuttering() syscalls {
	var calls atomic.Int64
	interrupt := func() bool { return calls.Add(1)%3 == 0 }
	part := func(rw func(int, []byte, int64) (int, error)) func(int, []byte, int64) (int, error) {
		return func(fd int, p []byte, off int64) (int, error) {
			if interrupt() {
				return 0, unix.EINTR
			}
			return rw(fd, p[:len(p)/2+1], off)
		}
	}
	sys := linux
	sys.pread, sys.pwrite, sys.pwriteFUA = part(linux.pread), part(linux.pwrite), part(linux.pwriteFUA)
	sys.fallocate = func(fd int, mode uint32, off, length int64) error {
		if interrupt() {
			return unix.EINTR
		}
		return linux.fallocate(fd, mode, off, length)
	}
	sys.fdatasync = func(fd int) error {
		if interrupt() {
			return unix.EINTR
		}
		return linux.fdatasync(fd)
	}
	return sys
}

func TestFdstoreKeepsTheContract(t *testing.T) {
	for _, on := range []struct {
		name, dir string
		sys       syscalls
	}{
		{"TempDir", t.TempDir(), linux},
		{"tmpfs", "/dev/shm", linux},
		{"PoorFileSystem", "/dev/shm", poor()},
		{"StutteringKernel", "/dev/shm", stuttering()},
	} {
		t.Run(on.name, func(t *testing.T) {
			storetest.Run(t, func(t testing.TB, size int64) store.Store {
				return serve(t, image(t, on.dir, size, os.O_RDWR), Options{}, on.sys)
			})
		})
	}
}

func TestReadOnlyFdstoreKeepsTheContract(t *testing.T) {
	storetest.Run(t, func(t testing.TB, size int64) store.Store {
		return serve(t, image(t, t.TempDir(), size, os.O_RDONLY), Options{ReadOnly: true}, linux)
	})
}

// wantError ends the test unless err wraps want and says each of the words.
func wantError(t *testing.T, err, want error, words ...string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error is %v, want one that wraps %v", err, want)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Fatalf("error %q does not say %q", err, w)
		}
	}
}

func TestNewRefusesDescriptorsThatCannotServe(t *testing.T) {
	const size = 4096
	dir := t.TempDir()
	for _, c := range []struct {
		name string
		file *os.File
		o    Options
		want error
		word string
	}{
		{"append", image(t, dir, size, os.O_RDWR|os.O_APPEND), Options{}, store.ErrInvalid, "O_APPEND"},
		{"write only", image(t, dir, size, os.O_WRONLY), Options{}, store.ErrInvalid, "reading"},
		{"read only", image(t, dir, size, os.O_RDONLY), Options{}, store.ErrReadOnly, "reading only"},
		{"path only", image(t, dir, size, unix.O_PATH), Options{ReadOnly: true}, store.ErrInvalid, "reading"},
		{"directory", reopen(t, dir, os.O_RDONLY), Options{ReadOnly: true}, store.ErrInvalid, "no regular file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := New(c.file, c.o)
			wantError(t, err, c.want, c.file.Name(), c.word)
		})
	}
}

func TestFailedNewLeavesTheFileToTheCaller(t *testing.T) {
	f := image(t, t.TempDir(), 4096, os.O_RDONLY)
	if _, err := New(f, Options{}); err == nil {
		t.Fatal("New serves a file for writing that is open for reading only")
	}
	if _, err := f.ReadAt(make([]byte, 1), 0); err != nil {
		t.Fatalf("the file cannot be used after New failed: %v", err)
	}
}

// set stores v in a field that is an int32 on arm64.
func set[T int32 | int64](field *T, v int64) { *field = T(v) }

func TestPreferredBlockComesFromStat(t *testing.T) {
	for blksize, want := range map[int64]uint32{
		4096: 4096, 512: 512, 1 << 20: 1 << 20,
		0: fallbackBlock, 256: fallbackBlock, 4095: fallbackBlock, -4096: fallbackBlock, 64 << 20: fallbackBlock,
	} {
		sys := linux
		sys.fstat = func(fd int, st *unix.Stat_t) error {
			err := linux.fstat(fd, st)
			set(&st.Blksize, blksize)
			return err
		}
		s := serve(t, image(t, t.TempDir(), 4096, os.O_RDWR), Options{}, sys)
		if got := s.Info().PreferredBlock; got != want {
			t.Errorf("with st_blksize %d the preferred block is %d, want %d", blksize, got, want)
		}
		if err := s.Info().Check(); err != nil {
			t.Error(err)
		}
	}
}

func TestAbilitiesAreThoseOfTheFileSystem(t *testing.T) {
	full := serve(t, image(t, t.TempDir(), 4096, os.O_RDWR), Options{}, linux).Info()
	if !full.CanPunch || !full.CanExtents {
		t.Errorf("on the file system of TempDir nothing can be punched or mapped: %+v", full)
	}
	least := serve(t, image(t, t.TempDir(), 4096, os.O_RDWR), Options{}, poor()).Info()
	if least.CanPunch || least.CanExtents {
		t.Errorf("a poor file system is said to punch or map: %+v", least)
	}
}

func TestReadBehindTheEndOfAShrunkImageFails(t *testing.T) {
	f := image(t, t.TempDir(), 64<<10, os.O_RDWR)
	s := serve(t, f, Options{}, linux)
	if err := os.Truncate(f.Name(), 10000); err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	if err := s.ReadAt(ctx, make([]byte, 10000), 0); err != nil {
		t.Errorf("reading what is still there: %v", err)
	}
	wantError(t, s.ReadAt(ctx, make([]byte, 2), 9999), store.ErrIO, "shrunk", "10000")
	_, err := s.Extents(ctx, 0, 64<<10)
	wantError(t, err, store.ErrIO, "shrunk")
	_, err = s.Extents(ctx, 20000, 100)
	wantError(t, err, store.ErrIO, "shrunk")
}

func TestImageThatGrewIsServedInItsOldSize(t *testing.T) {
	f := image(t, t.TempDir(), 5000, os.O_RDWR)
	s := serve(t, f, Options{}, linux)
	if err := os.Truncate(f.Name(), 1<<20); err != nil {
		t.Fatal(err)
	}
	if size := s.Info().Size; size != 5000 {
		t.Fatalf("size is %d, want 5000", size)
	}
}

func TestKernelErrorsKeepTheirNumber(t *testing.T) {
	ctx := context.Background()
	sys := linux
	sys.pread = func(int, []byte, int64) (int, error) { return 0, unix.EUCLEAN }
	sys.pwrite = func(int, []byte, int64) (int, error) { return 0, unix.ENOSPC }
	sys.fallocate = func(_ int, _ uint32, off, _ int64) error {
		if off == 0 {
			return unix.EPERM
		}
		return nil
	}
	s := serve(t, image(t, t.TempDir(), 4096, os.O_RDWR), Options{}, sys)
	p := make([]byte, 10)
	wantError(t, s.ReadAt(ctx, p, 1), unix.EUCLEAN, "reading 10 bytes at 1", s.file.Name())
	wantError(t, s.WriteAt(ctx, p, 2, 0), store.ErrNoSpace, "writing 10 bytes at 2", s.file.Name())
	wantError(t, s.PunchHole(ctx, 0, 7, 0), store.ErrReadOnly, "zeroing 7 bytes at 0", s.file.Name())
}

func TestContextIsAskedBetweenPieces(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	sys := linux
	pieces := 0
	sys.pread = func(_ int, p []byte, _ int64) (int, error) {
		if pieces++; pieces == 2 {
			cancel()
		}
		return len(p), nil
	}
	s := serve(t, image(t, t.TempDir(), 5*maxPiece, os.O_RDWR), Options{}, sys)
	wantError(t, s.ReadAt(ctx, make([]byte, 5*maxPiece), 0), context.Canceled)
	if pieces != 2 {
		t.Fatalf("%d pieces were read, want 2", pieces)
	}
}

func TestWrittenFileHoldsExactlyTheBytes(t *testing.T) {
	f := image(t, t.TempDir(), 1000, os.O_RDWR)
	s := serve(t, f, Options{}, linux)
	p := bytes.Repeat([]byte{7}, 1000)
	if err := s.WriteAt(context.Background(), p, 0, store.FUA); err != nil {
		t.Fatal(err)
	}
	if err := s.PunchHole(context.Background(), 990, 10, 0); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	clear(p[990:])
	got, err := os.ReadFile(f.Name())
	if err != nil || !bytes.Equal(got, p) {
		t.Fatalf("the file holds %d bytes (%v), not the 1000 that were written", len(got), err)
	}
}
