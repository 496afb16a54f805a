// SPDX-License-Identifier: Apache-2.0

package fdstore

import (
	"errors"
	"unsafe"

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

	// Of block devices only.
	deviceSize  func(fd int) (int64, error)
	geometry    func(fd int) (geometry, error)
	discard     func(fd int, off, length int64) error
	queueLimits func(device uint64) (limits, error)
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

	deviceSize:  deviceSize,
	geometry:    readGeometry,
	discard:     discard,
	queueLimits: func(device uint64) (limits, error) { return readLimits("/sys", device) },
}

// deviceSize is BLKGETSIZE64, in bytes.
func deviceSize(fd int) (int64, error) {
	var size uint64
	err := ioctl(fd, unix.BLKGETSIZE64, unsafe.Pointer(&size))
	return int64(size), err
}

// discard is BLKDISCARD. Offset and length are multiples of the logical block.
func discard(fd int, off, length int64) error {
	span := [2]uint64{uint64(off), uint64(length)}
	return ioctl(fd, unix.BLKDISCARD, unsafe.Pointer(&span))
}

// geometry is what a device says about its blocks.
type geometry struct {
	logical, physical uint32 // bytes
	readOnly          bool
}

func readGeometry(fd int) (g geometry, err error) {
	var readOnly uint32
	for _, ask := range []struct {
		request uint
		answer  *uint32
	}{
		{unix.BLKSSZGET, &g.logical},
		{unix.BLKPBSZGET, &g.physical},
		{unix.BLKROGET, &readOnly},
	} {
		if *ask.answer, err = unix.IoctlGetUint32(fd, ask.request); err != nil {
			return g, err
		}
	}
	g.readOnly = readOnly != 0
	return g, nil
}

func ioctl(fd int, request uint, argument unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(argument)); errno != 0 {
		return errno
	}
	return nil
}

// unsupported reports whether err says that the kernel, the file system or the
// device does not have what was asked for, as opposed to having failed at it.
func unsupported(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS)
}
