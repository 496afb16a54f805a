// SPDX-License-Identifier: Apache-2.0

package fdstore

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// lock takes the lock that says "this image is being served": exclusive for a
// writer, shared for a read-only server, on the whole file, without waiting. It
// is an OFD lock: it belongs to the open file description, so it is kept by
// every duplicate of the descriptor, passed to another process or not, and goes
// with the last of them. Locking a duplicate again succeeds, which lets a
// restarted process go on with a descriptor that its predecessor had locked.
//
// An image that is already locked gives EBUSY.
func lock(f *os.File, exclusive bool) error {
	kind := int16(unix.F_RDLCK)
	if exclusive {
		kind = unix.F_WRLCK
	}
	whole := unix.Flock_t{Type: kind, Whence: unix.SEEK_SET}
	for {
		switch err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &whole); {
		case err == nil:
			return nil
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EACCES):
			return fmt.Errorf("image %s is already being served (another process holds its lock): stop that server first: %w",
				f.Name(), unix.EBUSY)
		default:
			return fmt.Errorf("image %s cannot be locked, so it cannot be kept from being served twice: %w", f.Name(), err)
		}
	}
}
