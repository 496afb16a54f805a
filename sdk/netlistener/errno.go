// SPDX-License-Identifier: Apache-2.0

package netlistener

import (
	"errors"
	"slices"
	"syscall"
)

// isShortage tells errors that end when something else is closed or freed. The
// connection is still in the queue.
func isShortage(err error) bool {
	return isAny(err, syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM)
}

// isPassing tells errors that belong to the connection and not to the
// listener: accept(2) on Linux reports what already went wrong on the new
// socket, and wants these treated like "try again".
func isPassing(err error) bool {
	return isAny(err, syscall.ECONNABORTED, syscall.ECONNRESET, syscall.EPROTO,
		syscall.ENETDOWN, syscall.ENOPROTOOPT, syscall.EHOSTDOWN, syscall.ENONET,
		syscall.EHOSTUNREACH, syscall.EOPNOTSUPP, syscall.ENETUNREACH,
		syscall.ETIMEDOUT, syscall.EPERM)
}

func isAny(err error, errnos ...syscall.Errno) bool {
	var errno syscall.Errno
	return errors.As(err, &errno) && slices.Contains(errnos, errno)
}
