// SPDX-License-Identifier: GPL-3.0-or-later

package file

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/sdk/fdstore"
	"github.com/flexnbd/flexnbd/sdk/store"
)

// Open serves the image at location, a path. Errors name it, say what to do, and
// wrap the errno: ENOENT, EACCES, EBUSY for an image that is served already, and
// so on. What is no regular file is refused without being waited for.
func Open(ctx context.Context, location string, readOnly bool) (store.Store, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if location == "" {
		return nil, errNoLocation
	}
	// To open some devices is to use them (a watchdog starts, a tape
	// rewinds), so have a look first.
	var st unix.Stat_t
	if err := uninterrupted(func() error { return unix.Stat(location, &st) }); err != nil {
		return nil, explain(location, readOnly, err)
	}
	if err := explainKind(location, st.Mode); err != nil {
		return nil, err
	}
	f, err := openFile(location, readOnly)
	if err != nil {
		return nil, err
	}
	disk, err := fdstore.New(f, fdstore.Options{ReadOnly: readOnly})
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return disk, nil
}

// openFile opens what Open saw, or what has taken its place since: so it does
// not wait for a FIFO's other end, and looks again.
func openFile(path string, readOnly bool) (*os.File, error) {
	flags := unix.O_RDWR
	if readOnly {
		flags = unix.O_RDONLY
	}
	fd := -1
	err := uninterrupted(func() (err error) {
		fd, err = unix.Open(path, flags|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
		return err
	})
	if err != nil {
		return nil, explain(path, readOnly, err)
	}
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil {
		err = explainKind(path, st.Mode)
	}
	if err == nil {
		// A regular file has no use for O_NONBLOCK; os.File would take it
		// for a file to poll.
		err = unix.SetNonblock(fd, false)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, explain(path, readOnly, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// uninterrupted repeats call while a signal gets in its way.
func uninterrupted(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
