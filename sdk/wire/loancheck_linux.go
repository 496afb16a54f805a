// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/sdk/store"
)

// checkLoan returns nil if f can be lane "file" of a disk with these facts, opened
// read-only or not. An error completes "the plugin lent a descriptor, but ...".
// Nothing here changes f, or waits for it if it is a pipe.
func checkLoan(f *os.File, info store.Info, readOnly bool) error {
	if err := checkLendable(info); err != nil {
		return err
	}
	raw, err := f.SyscallConn() // Fd would make a pipe block, for everybody
	if err != nil {
		return err
	}
	var wrong error
	err = raw.Control(func(fd uintptr) { wrong = checkDescriptor(int(fd), info.Size, readOnly || info.ReadOnly) })
	return errors.Join(err, wrong)
}

// checkLendable refuses disks that the host must not write to behind their store's
// back.
func checkLendable(info store.Info) error {
	switch {
	case !info.Replayable:
		return errors.New("the disk is not replayable: writes of a dead process could still land")
	case info.Survives != store.SurvivesAcknowledged:
		return errors.New("acknowledged writes do not survive the plugin's process")
	case info.Unaligned == store.RefusesUnaligned && info.MinBlock > 1:
		return fmt.Errorf("the disk takes multiples of %d bytes only", info.MinBlock)
	}
	return nil
}

func checkDescriptor(fd int, size int64, readOnly bool) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("it can't be looked at: %w", err)
	}
	kind := st.Mode & unix.S_IFMT
	if kind != unix.S_IFREG && kind != unix.S_IFBLK {
		return fmt.Errorf("it is %s and no regular file or block device", kindName(kind))
	}
	if err := checkOpenedFor(fd, readOnly); err != nil {
		return err
	}
	is := st.Size
	if kind == unix.S_IFBLK {
		var err error
		if is, err = deviceSize(fd); err != nil {
			return fmt.Errorf("its size can't be asked for: %w", err)
		}
	}
	if is != size {
		return fmt.Errorf("it has %d bytes and the disk %d", is, size)
	}
	return nil
}

// checkOpenedFor looks at how a file was opened. With O_APPEND, Linux's pwrite
// ignores the offset; with O_DIRECT, most requests would be refused.
func checkOpenedFor(fd int, readOnly bool) error {
	mode, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return fmt.Errorf("how it was opened can't be asked for: %w", err)
	}
	access := mode & unix.O_ACCMODE
	switch {
	case mode&unix.O_PATH != 0:
		return errors.New("it was opened with O_PATH, which allows neither reading nor writing")
	case access == unix.O_WRONLY:
		return errors.New("it was opened for writing only")
	case access == unix.O_RDONLY && !readOnly:
		return errors.New("it was opened for reading only, and the disk is to be written")
	case access != unix.O_RDONLY && access != unix.O_RDWR:
		return errors.New("it was opened for neither reading nor writing")
	case mode&unix.O_APPEND != 0:
		return errors.New("it was opened with O_APPEND, which puts every write at the end")
	case mode&unix.O_DIRECT != 0:
		return errors.New("it was opened with O_DIRECT, which takes whole blocks only")
	}
	return nil
}

func kindName(kind uint32) string {
	switch kind {
	case unix.S_IFIFO:
		return "a pipe"
	case unix.S_IFDIR:
		return "a directory"
	case unix.S_IFSOCK:
		return "a socket"
	case unix.S_IFCHR:
		return "a character device"
	case unix.S_IFLNK:
		return "a symbolic link"
	}
	return "something else" // an epoll or event descriptor, say
}

// deviceSize is BLKGETSIZE64, in bytes. To seek would move the plugin's offset.
func deviceSize(fd int) (int64, error) {
	var size uint64
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.BLKGETSIZE64, uintptr(unsafe.Pointer(&size))); errno != 0 {
		return 0, errno
	}
	return int64(size), nil
}
