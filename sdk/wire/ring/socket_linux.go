// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"errors"
	"io"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Socket is an end of a ring's socket, as its one reader reads it.
//
// Where one request is in flight at a time, the next message comes within
// microseconds, and to leave the goroutine to Go's poller and to be woken by it takes
// longer than all the rest. So a reader that got little the last time waits on its own
// thread first.
type Socket struct {
	raw syscall.RawConn
	few bool // the last read brought one message or none
}

// attentionTime bounds how long a reader's thread can't be used for anything else.
const attentionTime = time.Millisecond

// attentive is whether a reader of this process waits on its own thread. One at a time
// does, since more would be in each other's way.
var attentive atomic.Bool

// NewSocket reads from f, which stays the caller's.
func NewSocket(f *os.File) (*Socket, error) {
	raw, err := f.SyscallConn()
	return &Socket{raw: raw}, err
}

// Read is that of [io.Reader]. one is how many bytes one message has.
func (s *Socket) Read(b []byte, one int) (n int, err error) {
	rawErr := s.raw.Read(func(fd uintptr) bool {
		n, err = read(fd, b)
		if !errors.Is(err, unix.EAGAIN) || !s.few || !attentive.CompareAndSwap(false, true) {
			return !errors.Is(err, unix.EAGAIN)
		}
		defer attentive.Store(false)
		fds := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		_, _ = unix.Poll(fds[:], int(attentionTime/time.Millisecond))
		n, err = read(fd, b)
		return !errors.Is(err, unix.EAGAIN)
	})
	s.few = n <= one
	switch {
	case rawErr != nil:
		return 0, rawErr
	case err != nil:
		return 0, os.NewSyscallError("read", err)
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

func read(fd uintptr, b []byte) (n int, err error) {
	for {
		n, err = unix.Read(int(fd), b)
		if !errors.Is(err, unix.EINTR) {
			return max(n, 0), err
		}
	}
}
