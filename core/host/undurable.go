// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/sdk/store"
)

// errorCursor tells whether the kernel has failed to write part of a file back
// since the cursor was made.
//
// Linux reports such a failure once to each open file description. A backend's
// process and those after it share one, the lease; so the report may go to a
// process that dies before it can pass it on, and the next one's fdatasync
// succeeds. The cursor is a description of the same file that nobody else has,
// opened through /proc/self/fd, which finds the file wherever it has been moved.
type errorCursor struct{ file *os.File }

// newErrorCursor fails where the lease is nothing that the kernel writes back, or
// can't be opened once more.
func newErrorCursor(lease *os.File) (*errorCursor, error) {
	raw, err := lease.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd := -1
	var openErr error
	err = raw.Control(func(held uintptr) {
		path := "/proc/self/fd/" + strconv.Itoa(int(held))
		fd, openErr = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	})
	if err := errors.Join(err, openErr); err != nil {
		return nil, err
	}
	c := &errorCursor{file: os.NewFile(uintptr(fd), "error-cursor")}
	if err := unix.SyncFileRange(fd, 0, 0, 0); err != nil { // asks for nothing
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

// failure returns what has failed since it was last asked. It does no I/O and
// waits for none: behind the end of the file, at size, there is nothing to wait
// for. A variable so that tests can have the kernel fail.
var failure = func(c *errorCursor, size int64) error {
	return unix.SyncFileRange(int(c.file.Fd()), size+1<<20, 1, unix.SYNC_FILE_RANGE_WAIT_BEFORE)
}

func (c *errorCursor) close() error { return c.file.Close() }

// makeCursor makes the cursor of a disk that will be written, if it has a lease.
// Without one, what a backend's flush forgets when its process dies can't be
// known, and such a flush is not repeated. A store that gives no lease has no
// descriptor that its processes share, and SurvivesAcknowledged is its word that
// a new process's flush answers for everything.
func (d *Disk) makeCursor() {
	d.flushRepeatable = d.info.Survives == store.SurvivesAcknowledged
	if d.lease == nil || d.info.ReadOnly || !d.flushRepeatable {
		return
	}
	var err error
	if d.cursor, err = newErrorCursor(d.lease); err != nil {
		d.flushRepeatable = false
		d.log.Info("a flush that meets a crash of the backend will fail, since the disk can't be asked afterwards what it lost", "plugin", d.program.Name, "error", err)
	}
}

// noteLostWrites asks the cursor, once the old process is gone.
func (d *Disk) noteLostWrites() {
	if d.cursor == nil || d.lost != nil {
		return
	}
	if err := failure(d.cursor, d.info.Size); err != nil {
		d.lost = fmt.Errorf("the kernel could not write back part of the disk, and the backend crashed before it told: %w", err)
	}
}

// undurable is a store that can't promise to be durable any more: every flush and
// everything with FUA fails.
type undurable struct {
	store.Store
	why error
}

func (u *undurable) WriteAt(ctx context.Context, p []byte, off int64, flags store.Flags) error {
	if flags&store.FUA != 0 {
		return u.why
	}
	return u.Store.WriteAt(ctx, p, off, flags)
}

func (u *undurable) PunchHole(ctx context.Context, off, length int64, flags store.Flags) error {
	if flags&store.FUA != 0 {
		return u.why
	}
	return u.Store.PunchHole(ctx, off, length, flags)
}

func (u *undurable) Flush(context.Context) error { return u.why }
