// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"testing"

	"github.com/flexnbd/flexnbd/core/nbd"
)

func TestPrepareAndCommitAreForSenders(t *testing.T) {
	both(t, func(t *testing.T, structured bool) {
		h := newHost(t)
		h.setGuest("")
		guest := connect(t, Config{Export: open(t, newDisk(testSize)), Migration: h})
		guest.greet(fixedNoZeroes)
		if structured {
			guest.structure()
		}
		guest.enter()
		for _, c := range []*client{guest, enter(t, Config{Export: open(t, newDisk(testSize))}, structured)} {
			for _, cmd := range []nbd.Command{nbd.CmdPrepare, nbd.CmdCommit} {
				if got := c.do(cmd, 0, 0, 0); got.errno != nbd.EINVAL {
					t.Errorf("%v: %v", cmd, got.errno)
				}
			}
			c.alive()
			c.leave()
		}
	})
}

// TestPrepareAndCommitAreAnswered checks that both are carried out once and answered
// with simple replies.
func TestPrepareAndCommitAreAnswered(t *testing.T) {
	both(t, func(t *testing.T, structured bool) {
		for _, cmd := range []nbd.Command{nbd.CmdPrepare, nbd.CmdCommit} {
			for given, want := range map[error]nbd.Errno{
				nil:                               0,
				fmt.Errorf("x: %w", nbd.EINVAL):   nbd.EINVAL,
				fmt.Errorf("x: %w", nbd.EPERM):    nbd.EPERM,
				&net.OpError{Err: syscall.EACCES}: nbd.EPERM,
				syscall.ENOSPC:                    nbd.ENOSPC,
				syscall.EIO:                       nbd.EIO,
				errors.New("anything else"):       nbd.EIO,
			} {
				h := newHost(t)
				h.prepare = func(context.Context) error { h.note("PREPARE"); return given }
				h.commit = func(context.Context) error { h.note("COMMIT"); return given }
				c, _ := sender(t, h, Config{Export: open(t, newDisk(testSize))}, structured)
				got := c.do(cmd, 0, 0, 0)
				if got.errno != want || len(got.chunks) > 0 {
					t.Errorf("%v with %v: got %v in %d chunks, want %v", cmd, given, got.errno, len(got.chunks), want)
				}
				c.alive()
				c.leave()
				if events, _, _ := h.noted(); len(events) != 1 || events[0] != cmd.String() {
					t.Errorf("%v was carried out as %v", cmd, events)
				}
			}
		}
	})
}

func TestPrepareAndCommitHaveNoRangeAndNoFlags(t *testing.T) {
	both(t, func(t *testing.T, structured bool) {
		h := newHost(t)
		h.prepare = func(context.Context) error { t.Error("carried out"); return nil }
		h.commit = h.prepare
		c, _ := sender(t, h, Config{Export: open(t, newDisk(testSize))}, structured)
		for _, cmd := range []nbd.Command{nbd.CmdPrepare, nbd.CmdCommit} {
			for _, r := range []nbd.Request{{Offset: 1}, {Length: 1}, {Offset: 1 << 63}, {Flags: nbd.CmdFlagFUA}, {Flags: nbd.CmdFlagDF}} {
				if got := c.do(cmd, r.Flags, r.Offset, r.Length); got.errno != nbd.EINVAL || len(got.chunks) > 0 {
					t.Errorf("%v %+v: %v in %d chunks", cmd, r, got.errno, len(got.chunks))
				}
			}
		}
		c.alive()
		c.leave()
	})
}

// TestHangingPrepareKeepsNobodyWaiting on the same connection.
func TestHangingPrepareKeepsNobodyWaiting(t *testing.T) {
	both(t, func(t *testing.T, structured bool) {
		h, hang := newHost(t), make(chan struct{})
		h.prepare = func(context.Context) error { <-hang; return nil }
		c, link := sender(t, h, Config{Export: open(t, newDisk(testSize))}, structured)
		prepare := c.send(nbd.CmdPrepare, 0, 0, 0)
		c.must(nbd.CmdWrite, 0, 0, 4096, numbered(4096))
		c.must(nbd.CmdRead, 0, 0, 4096)
		c.alive()
		c.must(nbd.CmdCommit, 0, 0, 0)
		c.say(nbd.AppendRequest(nil, nbd.Request{Command: nbd.CmdDisc}))
		if isClosed(link.Ended()) {
			t.Error("the connection has ended with a PREPARE under way")
		}
		close(hang)
		if got := c.next(); got.cookie != prepare || got.errno != 0 {
			t.Errorf("got %+v", got)
		}
		c.wantEnd()
		h.wantLeft(link, true)
	})
}

// TestConnectionForCommitTakesNothingElse checks that nothing of the disk is shown
// or changed on it.
func TestConnectionForCommitTakesNothingElse(t *testing.T) {
	both(t, func(t *testing.T, structured bool) {
		d, h := newDisk(testSize), newHost(t)
		h.prepare = func(context.Context) error { t.Error("PREPARE was carried out"); return nil }
		c := connect(t, Config{Export: open(t, d), Migration: h})
		c.greet(fixedNoZeroes)
		if structured {
			c.structure()
		}
		hello := testHello()
		hello.Purpose, hello.Replaces = nbd.MigrationCommit, [16]byte{}
		c.hello(hello)
		c.enter()
		n := everything(c)
		c.send(nbd.CmdPrepare, 0, 0, 0)
		for _, a := range c.all(n + 1) {
			if a.errno != nbd.EPERM {
				t.Errorf("got %v", a.errno)
			}
		}
		if n := len(d.took("read")) + len(d.took("write")) + len(d.took("punch")) + len(d.took("flush")) + len(d.took("extents")); n > 0 {
			t.Errorf("the store was called %d times", n)
		}
		if begun, _, _ := h.told(); begun > 0 {
			t.Errorf("%d changes began", begun)
		}
		c.must(nbd.CmdCommit, 0, 0, 0)
		c.leave()
		h.wantLeft(receive(t, h.links), true)
	})
}
