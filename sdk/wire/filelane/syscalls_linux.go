// SPDX-License-Identifier: Apache-2.0

package filelane

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// preadNow is preadv2 with RWF_NOWAIT. It waits for nothing, so for short reads
// the scheduler is not told of the system call, which costs as much as the call.
// p must not be empty.
func preadNow(fd int, p []byte, off int64) (int, unix.Errno) {
	vec := unix.Iovec{Base: &p[0]}
	vec.SetLen(len(p))
	low, high := uintptr(off), uintptr(uint64(off)>>(wordBits-1)>>1) // in two shifts, as an int has 64 bits on some machines
	var n uintptr
	var errno unix.Errno
	if len(p) <= shortCopy {
		n, _, errno = unix.RawSyscall6(unix.SYS_PREADV2, uintptr(fd), uintptr(unsafe.Pointer(&vec)), 1, low, high, unix.RWF_NOWAIT)
	} else {
		n, _, errno = unix.Syscall6(unix.SYS_PREADV2, uintptr(fd), uintptr(unsafe.Pointer(&vec)), 1, low, high, unix.RWF_NOWAIT)
	}
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

const (
	// shortCopy takes the kernel some microseconds, in bytes.
	shortCopy = 16 << 10
	wordBits  = unix.SizeofPtr * 8
)
