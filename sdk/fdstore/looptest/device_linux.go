// SPDX-License-Identifier: Apache-2.0

package looptest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Options for [New]. The zero value makes a device of no bytes.
type Options struct {
	Size         int64  // bytes; what is beyond a multiple of the block is cut off
	Dir          string // where the file with the bytes goes; "": t.TempDir
	LogicalBlock uint32 // bytes; 0: 512
	ReadOnly     bool   // a device that refuses to be written
	Offset       int64  // where in the file the device begins
}

// Device is a loop device that lasts as long as its test.
type Device struct {
	Path   string // of the device's node
	Number uint64 // the device's
	Image  string // the file with its bytes, sparse at first

	holder *os.File // keeps the device attached
}

// attempts bounds the retries when others take the free device first.
const attempts = 100

// New attaches a new file to a free loop device.
func New(t testing.TB, o Options) *Device {
	t.Helper()
	need(t)
	d := &Device{Image: newImage(t, o)}
	for range attempts {
		err := d.attach(o)
		if errors.Is(err, unix.EBUSY) {
			continue
		}
		if err != nil {
			t.Fatalf("no loop device for %s: %v", d.Image, err)
		}
		t.Cleanup(func() { _ = d.holder.Close() })
		return d
	}
	t.Fatalf("no loop device for %s: others took the free one first %d times", d.Image, attempts)
	return nil
}

// need ends the test where there can be no loop device.
func need(t testing.TB) {
	t.Helper()
	err := unix.Access("/dev/loop-control", unix.R_OK|unix.W_OK)
	if os.Geteuid() != 0 {
		err = unix.EPERM
	}
	switch {
	case err == nil:
	case os.Getenv("CI") != "":
		t.Fatalf("this test makes a loop device, which takes root and /dev/loop-control: %v", err)
	default:
		t.Skipf("this test makes a loop device, which takes root and /dev/loop-control: %v", err)
	}
}

func newImage(t testing.TB, o Options) string {
	t.Helper()
	dir := o.Dir
	if dir == "" {
		dir = t.TempDir()
	}
	f, err := os.CreateTemp(dir, "loop-*.img")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(f.Name()) })
	if err := errors.Join(f.Truncate(o.Offset+o.Size), f.Close()); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// attach takes the device that the kernel says is free. EBUSY says that it no
// longer was.
func (d *Device) attach(o Options) error {
	mode, flags := os.O_RDWR, uint32(unix.LO_FLAGS_AUTOCLEAR|unix.LO_FLAGS_PARTSCAN)
	if o.ReadOnly {
		mode, flags = os.O_RDONLY, flags|unix.LO_FLAGS_READ_ONLY
	}
	image, err := os.OpenFile(d.Image, mode, 0)
	if err != nil {
		return err
	}
	defer image.Close() //nolint:errcheck // the device has a reference of its own
	holder, err := openFree(mode)
	if err != nil {
		return err
	}
	config := unix.LoopConfig{Fd: uint32(image.Fd()), Size: o.LogicalBlock}
	config.Info.Flags, config.Info.Offset = flags, uint64(o.Offset)
	var st unix.Stat_t
	if err := errors.Join(unix.IoctlLoopConfigure(int(holder.Fd()), &config), unix.Fstat(int(holder.Fd()), &st)); err != nil {
		_ = holder.Close()
		return err
	}
	d.Path, d.holder, d.Number = holder.Name(), holder, st.Rdev
	return nil
}

func openFree(mode int) (*os.File, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close() //nolint:errcheck // nothing was written
	n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return nil, err
	}
	return os.OpenFile(fmt.Sprintf("/dev/loop%d", n), mode, 0)
}

// Allocated returns the space that the device's file takes, in bytes.
func (d *Device) Allocated(t testing.TB) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(d.Image, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

// Truncate cuts the file short and leaves the device as it is: an I/O error for
// whoever reads what is gone.
func (d *Device) Truncate(t testing.TB, size int64) {
	t.Helper()
	if err := os.Truncate(d.Image, size); err != nil {
		t.Fatal(err)
	}
}

// Resize gives the device, in use or not, another size. With 0 it looks like one
// that was pulled out.
func (d *Device) Resize(t testing.TB, size int64) {
	t.Helper()
	d.Truncate(t, size)
	if _, err := unix.IoctlRetInt(int(d.holder.Fd()), unix.LOOP_SET_CAPACITY); err != nil {
		t.Fatalf("the new size of %s: %v", d.Path, err)
	}
}

// Flushes returns how often the device was told to make its cache durable.
func (d *Device) Flushes(t testing.TB) int64 {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(d.Path), "stat"))
	if err != nil {
		t.Fatal(err)
	}
	const field = 15 // "flush I/Os" of the kernel's Documentation/block/stat.rst, counted from 0
	fields := strings.Fields(string(content))
	if len(fields) <= field {
		t.Fatalf("%s has %d statistics, without flushes: they take Linux 5.5", d.Path, len(fields))
	}
	n, err := strconv.ParseInt(fields[field], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
