// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/flexnbd/flexnbd/core/export"
	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

const sendSize = 256 * mib

// change is a request that changes the disk.
type change struct {
	cmd    nbd.Command
	length int64
	op     string // of the store
	piece  int64  // the most that reaches the store at once
}

var changes = map[string]change{
	"write":             {nbd.CmdWrite, 4096, "write", wire.MaxPayload},
	"write of pieces":   {nbd.CmdWrite, 3*mib + 512, "write", wire.MaxPayload},
	"zeroing":           {nbd.CmdWriteZeroes, export.MaxZeroPiece, "punch", export.MaxZeroPiece},
	"zeroing of pieces": {nbd.CmdWriteZeroes, 2*export.MaxZeroPiece + 512, "punch", export.MaxZeroPiece},
	"trim":              {nbd.CmdTrim, 4096, "punch", export.MaxZeroPiece},
	"trim of pieces":    {nbd.CmdTrim, 3 * export.MaxZeroPiece, "punch", export.MaxZeroPiece},
}

func (ch change) pieces() int { return int((ch.length + ch.piece - 1) / ch.piece) }

func (ch change) do(c *client, flags nbd.CommandFlags) *answer {
	c.t.Helper()
	var payload []byte
	if ch.cmd == nbd.CmdWrite {
		payload = numbered(int(ch.length))
	}
	return c.do(ch.cmd, flags, 512, uint32(ch.length), payload)
}

// eachChange runs a test for each change, with simple and with structured replies.
func eachChange(t *testing.T, test func(t *testing.T, ch change, structured bool)) {
	for name, ch := range changes {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, structured bool) { test(t, ch, structured) })
		})
	}
}

// TestSenderIsToldOfEachChange checks that each piece began before it reached the
// store, and that its end was told before the reply.
func TestSenderIsToldOfEachChange(t *testing.T) {
	eachChange(t, func(t *testing.T, ch change, structured bool) {
		d, h := newDisk(sendSize), newHost(t)
		d.on(func(call diskCall) error {
			if call.op == ch.op {
				h.note("store %d+%d", call.off, call.length)
			}
			return nil
		})
		c, link := sender(t, h, Config{Export: open(t, d)}, structured)
		if got := ch.do(c, nbd.CmdFlagFUA); got.errno != 0 {
			t.Fatalf("got %v", got.errno)
		}
		begun, ended, _ := h.told()
		if begun != ch.pieces() || len(ended) != begun || errors.Join(ended...) != nil {
			t.Errorf("%d began and %v ended, want %d", begun, ended, ch.pieces())
		}
		if n := len(d.took(ch.op)); n != ch.pieces() {
			t.Errorf("the store was called %d times", n)
		}
		began := map[string]bool{}
		events, _, _ := h.noted()
		for _, event := range events {
			what, where, _ := strings.Cut(event, " ")
			if what == "begin" {
				began[where] = true
			} else if what == "store" && !began[where] {
				t.Errorf("%s reached the store before it began: %v", where, events)
			}
		}
		c.leave()
		h.wantLeft(link, true)
	})
}

func TestSenderIsToldOfFailedChanges(t *testing.T) {
	eachChange(t, func(t *testing.T, ch change, structured bool) {
		d, h := newDisk(sendSize), newHost(t)
		d.failAt(ch.op, 512+ch.length-1, syscall.ENOSPC) // the last piece
		c, _ := sender(t, h, Config{Export: open(t, d)}, structured)
		if got := ch.do(c, 0); got.errno != nbd.ENOSPC {
			t.Errorf("got %v", got.errno)
		}
		begun, ended, _ := h.told()
		failed := 0
		for _, err := range ended {
			if errors.Is(err, syscall.ENOSPC) {
				failed++
			} else if err != nil {
				t.Errorf("a piece ended with %v", err)
			}
		}
		if begun != ch.pieces() || len(ended) != begun || failed != 1 {
			t.Errorf("%d began, %d ended, %d of them failed", begun, len(ended), failed)
		}
		c.alive()
		c.leave()
	})
}

// TestChangeThatMayNotBeginIsRefused refuses the first piece, or the last one.
func TestChangeThatMayNotBeginIsRefused(t *testing.T) {
	for errno, want := range map[error]nbd.Errno{
		fmt.Errorf("fenced: %w", nbd.EPERM): nbd.EPERM, syscall.ENOSPC: nbd.ENOSPC, errors.New("no record"): nbd.EIO,
	} {
		eachChange(t, func(t *testing.T, ch change, structured bool) {
			for _, last := range []bool{false, true} {
				d, h := newDisk(sendSize), newHost(t)
				h.begin = func(off, length int64) error {
					if !last || off+length == 512+ch.length {
						return errno
					}
					return nil
				}
				c, link := sender(t, h, Config{Export: open(t, d)}, structured)
				if got := ch.do(c, 0); got.errno != want {
					t.Errorf("got %v, want %v", got.errno, want)
				}
				before := 0
				if last {
					before = ch.pieces() - 1
				}
				begun, ended, _ := h.told()
				if begun != before || len(ended) != before || len(d.took(ch.op)) != before {
					t.Errorf("%d began, %d ended, the store was called %d times; want %d", begun, len(ended), len(d.took(ch.op)), before)
				}
				c.alive() // the payload was consumed
				c.leave()
				h.wantLeft(link, true)
			}
		})
	}
}

// TestNothingBeginsThatIsRefusedAnyway sends what the session refuses by itself, and
// what changes nothing.
func TestNothingBeginsThatIsRefusedAnyway(t *testing.T) {
	h := newHost(t)
	c, _ := sender(t, h, Config{Export: open(t, newDisk(testSize))}, true)
	c.do(nbd.CmdWrite, 0, testSize, 512, make([]byte, 512))
	c.do(nbd.CmdWriteZeroes, 0, testSize-1, 512)
	c.do(nbd.CmdTrim, 1<<9, 0, 512)
	c.must(nbd.CmdWrite, 0, 0, 0)
	c.must(nbd.CmdRead, 0, 0, 512)
	c.must(nbd.CmdCache, 0, 0, 512)
	c.must(nbd.CmdBlockStatus, 0, 0, 512)
	if begun, ended, _ := h.told(); begun != 0 || len(ended) != 0 {
		t.Errorf("%d began, %d ended", begun, len(ended))
	}
	c.leave()
}

func TestSenderIsToldOfFlushes(t *testing.T) {
	both(t, func(t *testing.T, structured bool) {
		d, h := newDisk(testSize), newHost(t)
		c, _ := sender(t, h, Config{Export: open(t, d)}, structured)
		c.must(nbd.CmdFlush, 0, 0, 0)
		c.must(nbd.CmdWrite, 0, 0, 512, numbered(512))
		d.on(func(call diskCall) error {
			if call.op == "flush" {
				return syscall.EIO
			}
			return nil
		})
		if got := c.do(nbd.CmdFlush, 0, 0, 0); got.errno != nbd.EIO {
			t.Errorf("got %v", got.errno)
		}
		if _, flushed, _ := h.noted(); len(flushed) != 2 || flushed[0] != nil || !errors.Is(flushed[1], syscall.EIO) {
			t.Errorf("the sender was told of %v", flushed)
		}
		c.leave()
	})
}

// TestSlowBeginKeepsOtherConnectionsServed has a record that takes its time.
func TestSlowBeginKeepsOtherConnectionsServed(t *testing.T) {
	h, hang := newHost(t), make(chan struct{})
	entered := make(chan struct{}, 1)
	h.begin = func(off, _ int64) error {
		if off == 0 {
			entered <- struct{}{}
			<-hang
		}
		return nil
	}
	e := open(t, newDisk(testSize))
	slow, _ := sender(t, h, Config{Export: e}, false)
	write := slow.send(nbd.CmdWrite, 0, 0, 512, numbered(512))
	receive(t, entered)
	other, _ := sender(t, h, Config{Export: e}, false)
	other.must(nbd.CmdWrite, 0, 4096, 512, numbered(512))
	close(hang)
	if got := slow.next(); got.cookie != write || got.errno != 0 {
		t.Errorf("got %+v", got)
	}
	_ = slow.SetDeadline(time.Now()) // both end with the test
}
