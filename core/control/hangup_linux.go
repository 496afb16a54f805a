// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"context"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// UntilHangup returns a verb that is verb, but whose ctx also ends, within a second
// or so, when its client has closed the connection. It is for verbs that wait for as
// long as it takes: else they outlive their clients and keep places from others. A
// client that has closed its half alone, as `printf 'status\n\n' | nc -N -U sock`
// does, still waits for its answer and has not hung up.
func UntilHangup(verb Verb) Verb {
	return func(ctx context.Context, args []string) Answer {
		caller, ok := ctx.Value(callerKey{}).(caller)
		if !ok { // called by something else than a Server
			return verb(ctx, args)
		}
		ctx, cancel := context.WithCancel(ctx)
		var watcher sync.WaitGroup
		defer watcher.Wait()
		defer cancel()
		watcher.Go(func() {
			defer cancel()
			caller.awaitHangup(ctx)
		})
		return verb(ctx, args)
	}
}

// hangupLook is how often a client is looked at.
const hangupLook = time.Second

// caller is the client of a verb, in the verb's ctx.
type caller struct {
	conn *net.UnixConn
	look time.Duration
}

type callerKey struct{}

func (c caller) awaitHangup(ctx context.Context) {
	look := time.NewTicker(c.look)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
			if hungUp(c.conn) {
				return
			}
		}
	}
}

// hungUp says whether the other end is closed. The kernel reports POLLHUP on a Unix
// stream socket once both directions are shut, which a half-close does not do. Reading
// could not tell the two apart, and neither could Go's poller.
func hungUp(conn *net.UnixConn) bool {
	raw, err := conn.SyscallConn()
	if err != nil {
		return true // closed at this end
	}
	gone := false
	err = raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd)}} // POLLHUP and POLLERR need not be asked for
		n, err := unix.Poll(fds, 0)
		gone = err == nil && n > 0 && fds[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
	})
	return gone || err != nil
}
