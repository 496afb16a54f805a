// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"errors"
	"io/fs"
	"syscall"
)

// Errors that a client is told by name. Wrap them ("%w") to say more; the
// number is found again by [Errno], on either side of the plugin's wire. Any
// other syscall.Errno inside an error travels just as well.
var (
	ErrReadOnly     error = syscall.EPERM   // the disk does not take writes
	ErrNoSpace      error = syscall.ENOSPC  // out of space or quota
	ErrNotSupported error = syscall.ENOTSUP // the flag or call is not offered
	ErrIO           error = syscall.EIO     // anything else
	ErrInvalid      error = syscall.EINVAL  // a request that cannot be right
	ErrShutdown     error = syscall.ESHUTDOWN
)

// Errno finds the number that stands for err: that of the innermost
// syscall.Errno in it, else a fitting one, else EIO. It returns 0 for nil.
func Errno(err error) syscall.Errno {
	var no syscall.Errno
	switch {
	case err == nil:
		return 0
	case errors.As(err, &no) && no != 0:
		return no
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return syscall.EIO
	case errors.Is(err, fs.ErrPermission):
		return syscall.EPERM
	case errors.Is(err, fs.ErrNotExist):
		return syscall.ENOENT
	}
	return syscall.EIO
}
