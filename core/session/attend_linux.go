// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// attention is how a reader waits for a client that has one request in flight at a
// time, and sends the next one as soon as it has its reply. To leave the goroutine to
// Go's poller and to be woken by it takes longer than such a client does. So the
// reader stays where it is: it asks the socket again and again for spinTime, then
// waits for it on its own thread for attentionTime, and only then in the poller.
//
// Asking again and again pays if the client answers within that time, one on this
// machine; a client that is slower is soon waited for without (credit).
type attention struct{ credit int }

const (
	spinTime = 40 * time.Microsecond
	// attentionTime bounds how long the thread can't be used for anything else,
	// and how much later than at once a reader notices that it is to stop.
	attentionTime = time.Millisecond
	// maxCredit is how many vain attempts it takes to give up asking, two of
	// which cost what a success brings, and spinPause how many waits later it is
	// tried again.
	maxCredit = 8
	spinPause = 200
)

// attentive is whether a reader waits on its own thread. One at a time does, since
// more would be in each other's way.
var attentive atomic.Bool

// wait waits for the socket to have something to read. It returns true if it has
// read that, into n and err of c.
func (a *attention) wait(c *readCall, fd uintptr) bool {
	if !attentive.CompareAndSwap(false, true) {
		return false
	}
	defer attentive.Store(false)
	if a.spins() {
		vectors := c.place()
		for begin := time.Now(); time.Since(begin) < spinTime; {
			// A raw system call: the scheduler need not know, nothing waits.
			n, _, errno := unix.RawSyscall(unix.SYS_READV, fd, uintptr(unsafe.Pointer(&vectors[0])), uintptr(len(vectors)))
			if errno == unix.EAGAIN || errno == unix.EINTR {
				continue
			}
			a.credit = min(a.credit+1, maxCredit)
			c.ended(int(n), errno)
			return true
		}
		if a.credit -= 2; a.credit < 0 {
			a.credit = -spinPause
		}
	}
	fds := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	_, _ = unix.Poll(fds[:], int(attentionTime/time.Millisecond))
	return false
}

// spins says whether to ask again and again this time.
func (a *attention) spins() bool {
	if a.credit < 0 {
		a.credit++
		return false
	}
	return runtime.GOMAXPROCS(0) > 1 // or the client could not even run
}
