// SPDX-License-Identifier: Apache-2.0

package main

import "syscall"

// failure is an error for the operator, complete as it stands. The number is for the
// client. Causes are told in the words and not wrapped: ECONNREFUSED, for one, says
// nothing to somebody who reads from a disk.
type failure struct {
	words   string
	errno   syscall.Errno
	passing bool // may be over the next time
}

func (f *failure) Error() string { return f.words }
func (f *failure) Unwrap() error { return f.errno }
