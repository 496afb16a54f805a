// SPDX-License-Identifier: Apache-2.0

package fdstore

import (
	"errors"

	"golang.org/x/sys/unix"
)

// syscalls is what a Store asks of the kernel about its descriptor. Tests
// replace single entries to see what cannot be provoked on a sound machine.
type syscalls struct {
	pread     func(fd int, p []byte, off int64) (int, error)
	pwrite    func(fd int, p []byte, off int64) (int, error)
	pwriteFUA func(fd int, p []byte, off int64) (int, error)
	fdatasync func(fd int) error
	fallocate func(fd int, mode uint32, off, length int64) error
	lseek     func(fd int, off int64, whence int) (int64, error)
	fstat     func(fd int, st *unix.Stat_t) error
}

var linux = syscalls{
	pread:  unix.Pread,
	pwrite: unix.Pwrite,
	pwriteFUA: func(fd int, p []byte, off int64) (int, error) {
		return unix.Pwritev2(fd, [][]byte{p}, off, unix.RWF_DSYNC)
	},
	fdatasync: unix.Fdatasync,
	fallocate: unix.Fallocate,
	lseek:     unix.Seek,
	fstat:     unix.Fstat,
}

// unsupported reports whether err says that the kernel or the file system does
// not have what was asked for, as opposed to having failed at it.
func unsupported(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS)
}
