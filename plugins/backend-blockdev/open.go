// SPDX-License-Identifier: GPL-3.0-or-later

package blockdev

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/sdk/fdstore"
	"github.com/flexnbd/flexnbd/sdk/store"
)

// Open serves the device at location, the path of its node. Errors name it, say
// what to do, and wrap the errno: ENOENT, EACCES, EBUSY for a device that is in
// use, and so on. What is no block device is refused without being opened.
func Open(ctx context.Context, location string, readOnly bool) (store.Store, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if location == "" {
		return nil, errNoLocation
	}
	f, err := openDevice(location, readOnly)
	if err != nil {
		return nil, explain(location, readOnly, err)
	}
	disk, err := fdstore.New(f, options(f, readOnly))
	if err == nil && disk.Info().Size == 0 {
		err = noBytes(location)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return disk, nil
}

// openDevice first gets hold of the node without opening the device, and then
// opens just that node: to open something else may be to use it (a watchdog
// starts, a tape rewinds) or to wait for it (a FIFO).
func openDevice(path string, readOnly bool) (*os.File, error) {
	node, err := open(path, unix.O_PATH)
	if err != nil {
		return nil, err
	}
	defer unix.Close(node) //nolint:errcheck // it was only looked at
	var st unix.Stat_t
	if err := unix.Fstat(node, &st); err != nil {
		return nil, err
	}
	if err := explainKind(path, st.Mode); err != nil {
		return nil, err
	}
	mode := unix.O_RDWR
	if readOnly {
		mode = unix.O_RDONLY
	}
	fd, err := open(fmt.Sprintf("/proc/self/fd/%d", node), mode|unix.O_EXCL)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// open repeats open(2) while a signal gets in its way.
func open(path string, flags int) (fd int, err error) {
	for {
		if fd, err = unix.Open(path, flags|unix.O_CLOEXEC, 0); !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}
