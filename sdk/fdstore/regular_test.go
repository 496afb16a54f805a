// SPDX-License-Identifier: Apache-2.0

package fdstore

import (
	"bytes"
	"context"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/sdk/store"
)

// allocated returns the space that the image takes, in bytes.
func allocated(t *testing.T, s *Store) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(s.fd, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

// filled serves an image of size bytes in dir whose space is all allocated.
func filled(t *testing.T, dir string, size int64, sys syscalls) *Store {
	t.Helper()
	s := serve(t, image(t, dir, size, os.O_RDWR), Options{}, sys)
	ctx := context.Background()
	if err := s.WriteAt(ctx, bytes.Repeat([]byte{1}, int(size)), 0, 0); err != nil {
		t.Fatal(err)
	}
	if err := s.Flush(ctx); err != nil { // ext4 allocates late
		t.Fatal(err)
	}
	if got := allocated(t, s); got < size {
		t.Fatalf("a written image of %d bytes takes %d", size, got)
	}
	return s
}

func TestPunchFreesSpaceUnlessItIsToBeKept(t *testing.T) {
	const size = 8 << 20
	ctx := context.Background()
	for _, dir := range []string{t.TempDir(), "/dev/shm"} {
		for _, flags := range []store.Flags{0, store.Discard, store.Fast, store.FUA} {
			s := filled(t, dir, size, linux)
			if err := s.PunchHole(ctx, 0, size/2, flags); err != nil {
				t.Fatalf("PunchHole in %s, flags %b: %v", dir, flags, err)
			}
			if got := allocated(t, s); got > size/2+64<<10 {
				t.Errorf("in %s, after half of %d bytes was punched with flags %b, %d are allocated", dir, size, flags, got)
			}
		}
		s := filled(t, dir, size, linux)
		if err := s.PunchHole(ctx, 0, size/2, store.KeepAllocated); err != nil {
			t.Fatalf("PunchHole in %s that keeps the space: %v", dir, err)
		}
		if got := allocated(t, s); got < size {
			t.Errorf("in %s, after a punch that was to keep all %d bytes allocated, %d are", dir, size, got)
		}
	}
}

func TestKeepAllocatedAllocatesHoles(t *testing.T) {
	const size = 4 << 20
	ctx := context.Background()
	for _, dir := range []string{t.TempDir(), "/dev/shm"} { // with ZERO_RANGE and without
		s := serve(t, image(t, dir, size, os.O_RDWR), Options{}, linux)
		if err := s.PunchHole(ctx, 0, size, store.KeepAllocated|store.FUA); err != nil {
			t.Fatal(err)
		}
		if got := allocated(t, s); got < size {
			t.Errorf("in %s, %d of %d bytes are allocated", dir, got, size)
		}
	}
}

func TestFastPunchIsRefusedWhereItWouldWrite(t *testing.T) {
	ctx := context.Background()
	s := filled(t, t.TempDir(), 64<<10, poor())
	for _, flags := range []store.Flags{store.Fast, store.Fast | store.KeepAllocated} {
		wantError(t, s.PunchHole(ctx, 0, 64<<10, flags), store.ErrNotSupported)
	}
	// tmpfs can punch, but not zero and keep.
	tmpfs := filled(t, "/dev/shm", 64<<10, linux)
	wantError(t, tmpfs.PunchHole(ctx, 0, 64<<10, store.Fast|store.KeepAllocated), store.ErrNotSupported)
	if err := tmpfs.PunchHole(ctx, 0, 64<<10, store.Fast); err != nil {
		t.Fatal(err)
	}
}

func TestDiscardWritesNoZeroesWhereNothingCanBePunched(t *testing.T) {
	s := filled(t, t.TempDir(), 64<<10, poor())
	if !s.Info().CanDiscard {
		t.Error("Info does not say that a discarded range may read as anything")
	}
	s.sys.pwrite = func(int, []byte, int64) (int, error) {
		t.Error("a discard was written out as zeroes")
		return 0, unix.EIO
	}
	if err := s.PunchHole(context.Background(), 0, 64<<10, store.Discard); err != nil {
		t.Fatal(err)
	}
}

func TestProbingChangesNothing(t *testing.T) {
	f := image(t, t.TempDir(), 5000, os.O_RDWR)
	want := bytes.Repeat([]byte{9}, 5000)
	if _, err := f.WriteAt(want, 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	var before, after unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &before); err != nil {
		t.Fatal(err)
	}
	s := serve(t, f, Options{}, linux)
	if err := unix.Fstat(s.fd, &after); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(f.Name())
	if err != nil || !bytes.Equal(got, want) || before.Blocks != after.Blocks || before.Size != after.Size {
		t.Fatalf("opening changed the image: %d blocks and %d bytes before, %d and %d after (%v)",
			before.Blocks, before.Size, after.Blocks, after.Size, err)
	}
}

func TestExtentsEndEarlyInAFragmentedImage(t *testing.T) {
	const block, blocks = 4096, maxExtents/2 + 100
	s := serve(t, image(t, "/dev/shm", 2*block*blocks, os.O_RDWR), Options{}, linux)
	ctx := context.Background()
	for i := range int64(blocks) {
		if err := s.WriteAt(ctx, []byte{1}, 2*i*block, 0); err != nil {
			t.Fatal(err)
		}
	}
	extents, err := s.Extents(ctx, 0, s.info.Size)
	if err != nil {
		t.Fatal(err)
	}
	// One turn of the loop may add a hole and data.
	if n := len(extents); n < maxExtents || n > maxExtents+1 {
		t.Fatalf("%d extents in one answer, want about %d", n, maxExtents)
	}
	rest, err := s.Extents(ctx, extents[len(extents)-1].End(), s.info.Size-extents[len(extents)-1].End())
	if err != nil || len(extents)+len(rest) != 2*blocks {
		t.Fatalf("%d and %d extents in two answers (%v), want %d in all", len(extents), len(rest), err, 2*blocks)
	}
}

// Between SEEK_DATA and SEEK_HOLE somebody punches what the first one found.
func TestExtentsGetOnWhenDataIsPunchedMeanwhile(t *testing.T) {
	s := filled(t, "/dev/shm", 64<<10, linux)
	ctx := context.Background()
	s.sys.lseek = func(fd int, off int64, whence int) (int64, error) {
		if whence == unix.SEEK_HOLE && off == 0 {
			if err := s.PunchHole(ctx, 0, 32<<10, 0); err != nil {
				t.Error(err)
			}
		}
		return linux.lseek(fd, off, whence)
	}
	extents, err := s.Extents(ctx, 0, 64<<10)
	if err != nil || extents[0].State != store.Data || extents[len(extents)-1].End() != 64<<10 {
		t.Fatalf("extents %v, error %v", extents, err)
	}
}

func TestZeroExtentIsNeverMadeUpWhenTheImageShrinksMeanwhile(t *testing.T) {
	s := filled(t, "/dev/shm", 64<<10, linux)
	s.sys.lseek = func(fd int, off int64, whence int) (int64, error) {
		if whence == unix.SEEK_HOLE {
			if err := unix.Ftruncate(fd, 0); err != nil {
				t.Error(err)
			}
		}
		return linux.lseek(fd, off, whence)
	}
	_, err := s.Extents(context.Background(), 0, 64<<10)
	wantError(t, err, store.ErrIO, "shrunk")
}
