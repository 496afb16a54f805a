// SPDX-License-Identifier: Apache-2.0

package filelane

import (
	"context"
	"os"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/sdk/fdstore"
	"github.com/flexnbd/flexnbd/sdk/fdstore/looptest"
	"github.com/flexnbd/flexnbd/sdk/rangelock"
	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/storetest"
	"github.com/flexnbd/flexnbd/sdk/wire"
	"github.com/flexnbd/flexnbd/sdk/wire/wiretest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lent lends a duplicate of f to this process.
func lent(t testing.TB, f *os.File) *wire.Lent {
	t.Helper()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	never := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	told := func(context.Context) error { return nil }
	l := wire.NewLent(os.NewFile(uintptr(fd), f.Name()), never, told)
	t.Cleanup(l.End)
	return l
}

// overLane returns a store of f whose reads and writes take the file lane.
func overLane(t testing.TB, f *os.File) store.Store {
	t.Helper()
	s, err := fdstore.New(f, fdstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ranges := &rangelock.Lock{}
	lane := New(ranges)
	lane.Use(lent(t, f))
	behind := wiretest.Locked(s, ranges)
	return wiretest.OverQueue(behind, func(sink wire.Sink) wire.Queue {
		return lane.NewQueue(wire.NewQueue(context.Background(), behind, sink), sink)
	})
}

// places are where test images may lie: the disk's file system and the memory's.
func places(t testing.TB) map[string]string {
	t.Helper()
	places := map[string]string{"disk": wiretest.FolderOnDisk(t)}
	if dir, err := os.MkdirTemp("/dev/shm", "filelane"); err == nil {
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		places["tmpfs"] = dir
	}
	return places
}

// image makes an image of zeroes.
func image(t testing.TB, dir string, size int64) *os.File {
	t.Helper()
	f, err := os.CreateTemp(dir, "image")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close(); _ = os.Remove(f.Name()) })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return f
}

// device makes a loop device and opens it.
func device(t testing.TB, size int64) *os.File {
	t.Helper()
	f, err := os.OpenFile(looptest.New(t, looptest.Options{Size: size}).Path, os.O_RDWR|unix.O_EXCL, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func TestLaneKeepsTheContractOfStores(t *testing.T) {
	for place, dir := range places(t) {
		t.Run(place, func(t *testing.T) {
			t.Parallel()
			storetest.Run(t, func(t testing.TB, size int64) store.Store { return overLane(t, image(t, dir, size)) })
		})
	}
}

func TestLaneOverADeviceKeepsTheContractOfStores(t *testing.T) {
	t.Parallel()
	suite := storetest.Suite{SizeUnit: 512, Open: func(t testing.TB, size int64) store.Store {
		return overLane(t, device(t, size))
	}}
	suite.Run(t)
}
