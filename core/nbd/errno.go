// SPDX-License-Identifier: GPL-3.0-or-later

package nbd

import (
	"errors"
	"io/fs"
	"strconv"
	"syscall"
)

// Errno is the error field of a reply ("Error values"). The zero value means
// success and is not to be used as an error. On the wire the numbers are the
// same on every system, whatever the system's own errno says.
type Errno uint32

// The error values. No others may be sent; one that is received all the same
// counts as EINVAL.
const (
	EPERM     Errno = 1
	EIO       Errno = 5
	ENOMEM    Errno = 12
	EINVAL    Errno = 22
	ENOSPC    Errno = 28
	EOVERFLOW Errno = 75
	ENOTSUP   Errno = 95
	ESHUTDOWN Errno = 108
)

// String returns the value's name, such as "ENOSPC".
func (e Errno) String() string {
	switch e {
	case 0:
		return "OK"
	case EPERM:
		return "EPERM"
	case EIO:
		return "EIO"
	case ENOMEM:
		return "ENOMEM"
	case EINVAL:
		return "EINVAL"
	case ENOSPC:
		return "ENOSPC"
	case EOVERFLOW:
		return "EOVERFLOW"
	case ENOTSUP:
		return "ENOTSUP"
	case ESHUTDOWN:
		return "ESHUTDOWN"
	}
	return "errno " + strconv.FormatUint(uint64(e), 10)
}

// Error says in words what the server meant.
func (e Errno) Error() string {
	switch e {
	case EPERM:
		return "operation not permitted (EPERM)"
	case EIO:
		return "input/output error (EIO)"
	case ENOMEM:
		return "cannot allocate memory (ENOMEM)"
	case EINVAL:
		return "invalid argument (EINVAL)"
	case ENOSPC:
		return "no space left on device (ENOSPC)"
	case EOVERFLOW:
		return "value too large (EOVERFLOW)"
	case ENOTSUP:
		return "operation not supported (ENOTSUP)"
	case ESHUTDOWN:
		return "server is shutting down (ESHUTDOWN)"
	}
	return "error " + strconv.FormatUint(uint64(e), 10) + ", which the protocol does not define"
}

// Known reports whether the protocol defines the value.
func (e Errno) Known() bool {
	switch e {
	case EPERM, EIO, ENOMEM, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP, ESHUTDOWN:
		return true
	}
	return false
}

// Is makes errors.Is find EINVAL in a value the protocol does not define
// ("Error values": a client treats an unexpected value as EINVAL).
func (e Errno) Is(target error) bool {
	return target == EINVAL && e != 0 && !e.Known()
}

// ErrnoOf returns what a client is told about err, 0 for nil. fastZero says
// that the request was a WRITE_ZEROES with CmdFlagFastZero, the only one that
// may be answered with ENOTSUP.
//
// The number comes from the syscall.Errno or Errno inside err. EOVERFLOW goes
// out only when err holds it as an Errno, so that only the session, which knows
// of DF and of oversize requests, can cause it. Whatever else has no value of
// its own in the protocol is EIO, and so is the end of a context.
func ErrnoOf(err error, fastZero bool) Errno {
	var own Errno
	var no syscall.Errno
	switch {
	case err == nil:
		return 0
	case errors.As(err, &own):
		if own == EOVERFLOW {
			return EOVERFLOW
		}
		no = syscall.Errno(own)
	case errors.As(err, &no):
	case errors.Is(err, fs.ErrPermission):
		return EPERM
	}
	return fromSystem(no, fastZero)
}

// fromSystem maps a system's errno ("Error values", last paragraphs).
func fromSystem(no syscall.Errno, fastZero bool) Errno {
	switch no {
	case syscall.EPERM, syscall.EACCES, syscall.EROFS:
		return EPERM
	case syscall.ENOMEM:
		return ENOMEM
	case syscall.EINVAL:
		return EINVAL
	case syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG:
		return ENOSPC
	case syscall.ENOTSUP, syscall.ENOSYS: // EOPNOTSUPP is the same number
		if fastZero {
			return ENOTSUP
		}
		return EINVAL
	case syscall.ESHUTDOWN:
		return ESHUTDOWN
	}
	return EIO
}
