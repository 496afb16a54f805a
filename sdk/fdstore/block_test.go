// SPDX-License-Identifier: Apache-2.0

package fdstore

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/sdk/fdstore/looptest"
	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/storetest"
)

// device serves a new loop device, and returns both.
func device(t testing.TB, o looptest.Options, sys syscalls) (*Store, *looptest.Device) {
	t.Helper()
	loop := looptest.New(t, o)
	return serve(t, reopen(t, loop.Path, os.O_RDWR|unix.O_EXCL), Options{}, sys), loop
}

// ramfs mounts the one file system that can free nothing at all, so that loop
// devices on it can neither zero nor discard.
func ramfs(t *testing.T) string {
	t.Helper()
	looptest.New(t, looptest.Options{}) // skips without root
	dir := t.TempDir()
	if err := unix.Mount("ramfs", dir, "ramfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestBlockDeviceKeepsTheContract(t *testing.T) {
	for name, on := range map[string]struct {
		looptest.Options
		sys syscalls
	}{
		"TempDir":          {looptest.Options{}, linux},
		"tmpfs":            {looptest.Options{Dir: "/dev/shm"}, linux}, // cannot zero and keep
		"ramfs":            {looptest.Options{Dir: ramfs(t)}, linux},   // can do nothing
		"BraggingDevice":   {looptest.Options{Dir: ramfs(t)}, bragging()},
		"StutteringKernel": {looptest.Options{LogicalBlock: 4096}, stuttering()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // mostly they wait for loop devices
			storetest.Suite{
				Open: func(t testing.TB, size int64) store.Store {
					o := on.Options
					o.Size = size
					s, _ := device(t, o, on.sys)
					return s
				},
				SizeUnit: max(512, int64(on.LogicalBlock)),
			}.Run(t)
		})
	}
}

func TestReadOnlyBlockDeviceKeepsTheContract(t *testing.T) {
	storetest.Suite{
		Open: func(t testing.TB, size int64) store.Store {
			loop := looptest.New(t, looptest.Options{Size: size, ReadOnly: true})
			return serve(t, reopen(t, loop.Path, os.O_RDONLY), Options{ReadOnly: true}, linux)
		},
		SizeUnit: 512,
	}.Run(t)
}

// bragging is a kernel whose devices all say that they can zero and discard, as
// some disks do until they are asked to.
func bragging() syscalls {
	sys := linux
	sys.queueLimits = func(uint64) (limits, error) { return limits{discard: 1 << 30, zero: 1 << 30}, nil }
	return sys
}

func TestDeviceSaysWhatItIs(t *testing.T) {
	page := uint32(os.Getpagesize())
	for _, o := range []looptest.Options{
		{Size: 1<<20 + 3*512},
		{Size: 1<<20 + 4096, LogicalBlock: 4096},
	} {
		s, _ := device(t, o, linux)
		logical := max(512, o.LogicalBlock)
		want := store.Info{
			Size: o.Size, MinBlock: logical, PreferredBlock: max(4096, logical),
			FUA:      store.Native,
			CanPunch: true, CanKeepAllocated: true, CanFast: true, CanDiscard: true,
			Survives: store.SurvivesAcknowledged, Replayable: true,
		}
		if got := s.Info(); got != want {
			t.Errorf("Info is %+v, want %+v", got, want)
		}
		if b := s.medium.(*block); b.page != int64(max(page, logical)) {
			t.Errorf("ranges for the device are multiples of %d", b.page)
		}
	}
	poor, _ := device(t, looptest.Options{Size: 1 << 20, Dir: ramfs(t)}, linux)
	if i := poor.Info(); i.CanPunch || i.CanExtents || !i.CanDiscard {
		t.Errorf("of a device that can neither zero nor discard, Info is %+v", i)
	}
	sys := linux
	sys.queueLimits = func(uint64) (limits, error) { return limits{}, os.ErrNotExist }
	blind, _ := device(t, looptest.Options{Size: 1 << 20}, sys)
	if got, want := blind.Info(), poor.Info(); got != want {
		t.Errorf("without sysfs Info is %+v, want %+v", got, want)
	}
}

func TestPreferredBlockComesFromTheDevice(t *testing.T) {
	for _, c := range []struct {
		logical, physical, want uint32
	}{
		{512, 512, 4096}, {512, 4096, 4096}, {512, 16384, 16384}, {4096, 4096, 4096}, {16384, 4096, 16384},
		{512, 12288, 4096}, {512, 0, 4096}, {512, 64 << 20, 4096},
		{0, 512, 0}, {256, 512, 0}, {520, 512, 0}, {128 << 10, 512, 0},
	} {
		sys := linux
		sys.geometry = func(int) (geometry, error) { return geometry{logical: c.logical, physical: c.physical}, nil }
		loop := looptest.New(t, looptest.Options{Size: 1 << 20})
		s, err := newStore(reopen(t, loop.Path, os.O_RDWR), Options{}, sys)
		if c.want == 0 {
			wantError(t, err, store.ErrInvalid, loop.Path, "blocks of")
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Info(); got.PreferredBlock != c.want || got.Check() != nil {
			t.Errorf("with blocks of %d and %d bytes the preferred one is %d, want %d (%v)",
				c.logical, c.physical, got.PreferredBlock, c.want, got.Check())
		}
	}
}

func TestReadOnlyDeviceIsServedOnlyReadOnly(t *testing.T) {
	loop := looptest.New(t, looptest.Options{Size: 1 << 20, ReadOnly: true})
	f := reopen(t, loop.Path, os.O_RDWR) // which Linux allows
	_, err := New(f, Options{})
	wantError(t, err, store.ErrReadOnly, loop.Path, "--read-only")
	if _, err := New(f, Options{ReadOnly: true}); err != nil {
		t.Fatal(err)
	}
}

// written fills a device with 1, on the disk and in the page cache.
func written(t *testing.T, s *Store) {
	t.Helper()
	ctx := context.Background()
	if err := s.WriteAt(ctx, bytes.Repeat([]byte{1}, int(s.info.Size)), 0, 0); err != nil {
		t.Fatal(err)
	}
	if err := s.Flush(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestPunchAndDiscardFreeTheSpaceOfADevice(t *testing.T) {
	const size = 8 << 20
	ctx := context.Background()
	for _, flags := range []store.Flags{0, store.Fast, store.FUA, store.Discard, store.Discard | store.Fast} {
		s, loop := device(t, looptest.Options{Size: size}, linux)
		written(t, s)
		if got := loop.Allocated(t); got < size {
			t.Fatalf("a written device of %d bytes takes %d", size, got)
		}
		if err := s.PunchHole(ctx, 100, size/2, flags); err != nil {
			t.Fatalf("flags %b: %v", flags, err)
		}
		if got := loop.Allocated(t); got > size/2+64<<10 {
			t.Errorf("after half of %d bytes was punched with flags %b, %d are allocated", size, flags, got)
		}
	}
	for _, flags := range []store.Flags{store.KeepAllocated, store.KeepAllocated | store.Discard} {
		s, loop := device(t, looptest.Options{Size: size}, linux)
		written(t, s)
		if err := s.PunchHole(ctx, 100, size/2, flags|store.FUA); err != nil {
			t.Fatal(err)
		}
		if got := loop.Allocated(t); got < size {
			t.Errorf("after a punch that was to keep all %d bytes allocated, %d are", size, got)
		}
	}
}

// Zeroing goes past the page cache, where most of a disk's newest bytes are.
func TestPunchAndNeighboursAgreeWithThePageCache(t *testing.T) {
	const size, off, length = 64 << 10, 5000, 20001
	ctx := context.Background()
	for name, sys := range map[string]syscalls{"Able": linux, "Poor": poor()} {
		for _, flags := range []store.Flags{0, store.KeepAllocated, store.Discard} {
			s, _ := device(t, looptest.Options{Size: size}, sys)
			written(t, s)
			want := bytes.Repeat([]byte{2}, size)
			if err := s.WriteAt(ctx, want, 0, 0); err != nil { // not on the disk yet
				t.Fatal(err)
			}
			if err := s.PunchHole(ctx, off, length, flags); err != nil {
				t.Fatal(err)
			}
			check := func(where string) {
				t.Helper()
				got := make([]byte, size)
				if err := s.ReadAt(ctx, got, 0); err != nil {
					t.Fatal(err)
				}
				if flags&store.Discard == 0 {
					clear(want[off : off+length])
				} else {
					clear(want[off : off+length])
					clear(got[off : off+length])
				}
				if !bytes.Equal(got, want) {
					t.Errorf("%s, flags %b: wrong bytes in %s", name, flags, where)
				}
			}
			check("the page cache")
			dropCache(t, s)
			check("the device")
		}
	}
}

// dropCache has the next reads come from the device.
func dropCache(t *testing.T, s *Store) {
	t.Helper()
	if err := s.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetInt(s.fd, unix.BLKFLSBUF, 0); err != nil {
		t.Fatal(err)
	}
}

func TestRefusedFastPunchOfADeviceLosesNoUnwrittenData(t *testing.T) {
	const size = 64 << 10
	ctx := context.Background()
	for name, c := range map[string]struct {
		dir   string
		flags store.Flags
	}{
		"DeviceThatCannot": {ramfs(t), store.Fast},
		"KeepAllocated":    {t.TempDir(), store.Fast | store.KeepAllocated},
	} {
		s, _ := device(t, looptest.Options{Size: size, Dir: c.dir}, linux)
		written(t, s)
		want := bytes.Repeat([]byte{2}, size)
		if err := s.WriteAt(ctx, want, 0, 0); err != nil {
			t.Fatal(err)
		}
		wantError(t, s.PunchHole(ctx, 4096, 32<<10, c.flags), store.ErrNotSupported)
		got := make([]byte, size)
		if err := s.ReadAt(ctx, got, 0); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: a refused punch changed the disk (%v)", name, err)
		}
	}
}

// The kernel has dropped unwritten data by the time the device refuses. To pass
// the refusal on would bring back what was there before that data.
func TestDeviceThatTurnsOutUnableIsZeroedAllTheSame(t *testing.T) {
	const size = 64 << 10
	ctx := context.Background()
	s, _ := device(t, looptest.Options{Size: size, Dir: ramfs(t)}, bragging())
	if !s.Info().CanPunch {
		t.Fatal("the device does not brag")
	}
	written(t, s)
	want := bytes.Repeat([]byte{2}, size)
	if err := s.WriteAt(ctx, want, 0, 0); err != nil {
		t.Fatal(err)
	}
	if err := s.PunchHole(ctx, 4096, 32<<10, store.Fast); err != nil {
		t.Fatal(err)
	}
	clear(want[4096 : 36<<10])
	wantError(t, s.PunchHole(ctx, 40<<10, 4096, store.Fast), store.ErrNotSupported) // now it is known
	got := make([]byte, size)
	if err := s.ReadAt(ctx, got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("wrong bytes (%v)", err)
	}
}

func TestDiscardOfAnUnableDeviceDoesNothing(t *testing.T) {
	ctx := context.Background()
	sys := bragging()
	sys.discard = func(int, int64, int64) error { return unix.EOPNOTSUPP }
	sys.fallocate = func(int, uint32, int64, int64) error {
		t.Error("a discard was done as zeroing")
		return unix.EIO
	}
	for _, sys := range []syscalls{linux, sys} {
		s, _ := device(t, looptest.Options{Size: 64 << 10, Dir: ramfs(t)}, sys)
		if err := s.PunchHole(ctx, 0, 64<<10, store.Discard|store.FUA); err != nil {
			t.Error(err)
		}
	}
}

func TestDeviceSeesOnlyWholePagesAndPiecesOfBoundedSize(t *testing.T) {
	page := int64(os.Getpagesize())
	const size = 1 << 30
	type call struct{ off, length int64 }
	var calls []call
	sys := linux
	sys.fallocate = func(_ int, _ uint32, off, length int64) error {
		calls = append(calls, call{off, length})
		return nil
	}
	sys.discard = func(_ int, off, length int64) error {
		calls = append(calls, call{off, length})
		return nil
	}
	s, _ := device(t, looptest.Options{Size: size}, sys)
	for _, flags := range []store.Flags{0, store.KeepAllocated, store.Discard} {
		calls = nil
		most := int64(maxOffload)
		if flags == store.KeepAllocated {
			most = maxPiece
		}
		off, end := 3*page+1, most+7*page+5
		if err := s.PunchHole(context.Background(), off, end-off, flags); err != nil {
			t.Fatal(err)
		}
		want := []call{{4 * page, most - 4*page}, {most, 7 * page}}
		if len(calls) != 2 || calls[0] != want[0] || calls[1] != want[1] {
			t.Errorf("flags %b: the device saw %v, want %v", flags, calls, want)
		}
		calls = nil
		if err := s.PunchHole(context.Background(), 1, page, flags); err != nil || len(calls) != 0 {
			t.Errorf("flags %b: of a range without a whole page the device saw %v (%v)", flags, calls, err)
		}
	}
}

func TestZeroingOfADeviceIsAskedWhetherToStop(t *testing.T) {
	for _, flags := range []store.Flags{0, store.Discard} {
		ctx, cancel := context.WithCancel(context.Background())
		calls := 0
		sys := linux
		sys.fallocate = func(int, uint32, int64, int64) error { calls++; cancel(); return nil }
		sys.discard = func(int, int64, int64) error { calls++; cancel(); return nil }
		s, _ := device(t, looptest.Options{Size: 1 << 30}, sys)
		wantError(t, s.PunchHole(ctx, 0, 1<<30, flags), context.Canceled)
		if calls != 1 {
			t.Errorf("flags %b: %d calls after the context had ended", flags, calls-1)
		}
	}
}

func TestDurableWritesEmptyTheDevicesCache(t *testing.T) {
	ctx := context.Background()
	s, loop := device(t, looptest.Options{Size: 1 << 20}, linux)
	p := make([]byte, 4096)
	for _, c := range []struct {
		what string
		do   func() error
		more bool
	}{
		{"a write", func() error { return s.WriteAt(ctx, p, 0, 0) }, false},
		{"a flush", func() error { return s.Flush(ctx) }, true},
		{"a write with FUA", func() error { return s.WriteAt(ctx, p, 8192, store.FUA) }, true},
		{"a punch with FUA", func() error { return s.PunchHole(ctx, 0, 8192, store.FUA) }, true},
		{"a flush with nothing to do", func() error { return s.Flush(ctx) }, true},
	} {
		before := loop.Flushes(t)
		if err := c.do(); err != nil {
			t.Fatal(err)
		}
		if after := loop.Flushes(t); (after > before) != c.more {
			t.Errorf("%s flushed the device %d times", c.what, after-before)
		}
	}
}

func TestFUAWriteReachesTheDevicesFile(t *testing.T) {
	s, loop := device(t, looptest.Options{Size: 1 << 20}, linux)
	want := bytes.Repeat([]byte{3}, 5000)
	if err := s.WriteAt(context.Background(), want, 1000, store.FUA); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(loop.Image)
	if err != nil || !bytes.Equal(got[1000:6000], want) {
		t.Errorf("the bytes are not in the device's file (%v)", err)
	}
}

func TestDeviceThatShrinksOrVanishesFailsClearly(t *testing.T) {
	const size = 1 << 20
	ctx := context.Background()
	p := make([]byte, 4096)
	for _, now := range []int64{size / 2, 0} {
		s, loop := device(t, looptest.Options{Size: size}, linux)
		loop.Resize(t, now)
		for what, err := range map[string]error{
			"read":          s.ReadAt(ctx, p, size/2),
			"write":         s.WriteAt(ctx, p, size/2, 0),
			"write FUA":     s.WriteAt(ctx, p, size/2, store.FUA),
			"straddling":    s.WriteAt(ctx, make([]byte, size), 0, 0),
			"punch":         s.PunchHole(ctx, size/2, size/4, 0),
			"straddling it": s.PunchHole(ctx, size/4, size/2, 0),
			"keep":          s.PunchHole(ctx, size/2, 4096, store.KeepAllocated),
			"discard":       s.PunchHole(ctx, size/2, 4096, store.Discard),
		} {
			if store.Errno(err) != unix.EIO || !strings.Contains(err.Error(), "since it was opened") {
				t.Errorf("%s, of a device that shrank to %d bytes: %v", what, now, err)
			}
		}
		if err := s.Flush(ctx); err != nil {
			t.Errorf("what failed at once made a flush fail, for good: %v", err)
		}
	}
}

func TestErrorOfTheDeviceIsPassedOnAndLatched(t *testing.T) {
	const size = 4 << 20
	ctx := context.Background()
	s, loop := device(t, looptest.Options{Size: size}, linux)
	written(t, s)
	dropCache(t, s)
	loop.Truncate(t, 0)
	wantError(t, s.ReadAt(ctx, make([]byte, 4096), size/2), unix.EIO, loop.Path, "reading 4096 bytes at 2097152")

	sys := linux
	for call, fail := range map[string]func(){
		"zeroing 8192 bytes at 4096":    func() { sys.fallocate = func(int, uint32, int64, int64) error { return unix.ENXIO } },
		"discarding 8192 bytes at 4096": func() { sys.discard = func(int, int64, int64) error { return unix.ENXIO } },
	} {
		sys = linux
		fail()
		s, loop := device(t, looptest.Options{Size: size}, sys)
		flags := store.Discard
		if strings.HasPrefix(call, "zeroing") {
			flags = 0
		}
		wantError(t, s.PunchHole(ctx, 4096, 8192, flags), unix.ENXIO, loop.Path, call)
	}
}

func TestDeviceIsLockedLikeAFile(t *testing.T) {
	loop := looptest.New(t, looptest.Options{Size: 1 << 20})
	first := serve(t, reopen(t, loop.Path, os.O_RDWR), Options{}, linux)
	_, err := New(reopen(t, loop.Path, os.O_RDONLY), Options{ReadOnly: true})
	wantError(t, err, unix.EBUSY, loop.Path, "already being served")
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	serve(t, reopen(t, loop.Path, os.O_RDONLY), Options{ReadOnly: true}, linux)
}

func TestExtentsOfAPunchedDeviceAreData(t *testing.T) {
	ctx := context.Background()
	s, _ := device(t, looptest.Options{Size: 1 << 20}, linux)
	if err := s.PunchHole(ctx, 0, 1<<20, 0); err != nil {
		t.Fatal(err)
	}
	extents, err := s.Extents(ctx, 512, 1<<19)
	if err != nil || len(extents) != 1 || extents[0] != (store.Extent{Offset: 512, Length: 1 << 19}) {
		t.Fatalf("extents %v, error %v", extents, err)
	}
}
