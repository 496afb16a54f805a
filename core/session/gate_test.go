// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"bytes"
	"context"
	"io"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/core/export"
	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

func drain(t *testing.T, e *export.Export) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := e.Gate().Drain(ctx); err != nil {
		t.Fatalf("somebody does not leave the gate: %v", err)
	}
}

// everything sends one of each command and returns how many.
func everything(c *client) int {
	c.send(nbd.CmdRead, 0, 0, 4096)
	c.send(nbd.CmdWrite, 0, 0, 4096, numbered(4096))
	c.send(nbd.CmdWriteZeroes, 0, 8192, 4096)
	c.send(nbd.CmdTrim, 0, 4096, 4096)
	c.send(nbd.CmdFlush, 0, 0, 0)
	c.send(nbd.CmdCache, 0, 0, 4096)
	if !c.structured {
		return 6
	}
	c.send(nbd.CmdBlockStatus, 0, 0, 4096)
	return 7
}

// TestHeldRequestsWait checks that the connection stays up meanwhile.
func TestHeldRequestsWait(t *testing.T) {
	both(t, func(t *testing.T, structured bool) {
		d := newDisk(8 * mib)
		e := open(t, d)
		c, q := transmit(t, e, structured)
		c.alive()
		e.Gate().Hold()
		drain(t, e)
		before := len(d.calls)
		n := everything(c)
		n++
		c.send(nbd.CmdRead, 0, 0, 8*mib)
		eventually(t, "requests arrive at the gate", func() bool { return q.submitted.Load() > 1 })
		drain(t, e)
		if len(d.calls) != before {
			t.Errorf("a held gate let something through: %+v", d.calls[before:])
		}
		e.Gate().Open()
		for _, a := range c.all(n) {
			if a.errno != 0 {
				t.Errorf("got %v %s", a.errno, a.message)
			}
		}
		c.leave()
	})
}

// TestClosedGateEndsTheConnection checks that what was held gets no reply, and
// what was done before does.
func TestClosedGateEndsTheConnection(t *testing.T) {
	both(t, func(t *testing.T, structured bool) {
		d := newDisk(8 * mib)
		e := open(t, d)
		c, q := transmit(t, e, structured)
		c.must(nbd.CmdWrite, 0, 0, 4096, bytes.Repeat([]byte{7}, 4096))
		e.Gate().Hold()
		drain(t, e)
		submitted := q.submitted.Load()
		everything(c)
		eventually(t, "requests arrive at the gate", func() bool { return q.submitted.Load() > submitted })
		e.Gate().Close()
		c.wantEnd()
		_ = c.Close()
		c.wantResult(false)
		if !bytes.Equal(d.content(t, 0, 4096), bytes.Repeat([]byte{7}, 4096)) {
			t.Error("a held write reached the store")
		}
	})
}

// TestNothingIsAnsweredOnceTheDiskHasMovedAway asks an idle connection for one
// thing at a time.
func TestNothingIsAnsweredOnceTheDiskHasMovedAway(t *testing.T) {
	both(t, func(t *testing.T, structured bool) {
		asks := map[string]func(*client){
			"read":         func(c *client) { c.send(nbd.CmdRead, 0, 0, 4096) },
			"write":        func(c *client) { c.send(nbd.CmdWrite, nbd.CmdFlagFUA, 0, 4096, numbered(4096)) },
			"write zeroes": func(c *client) { c.send(nbd.CmdWriteZeroes, 0, 0, 4096) },
			"long trim":    func(c *client) { c.send(nbd.CmdTrim, 0, 0, 1<<30) },
			"flush":        func(c *client) { c.send(nbd.CmdFlush, 0, 0, 0) },
			"cache":        func(c *client) { c.send(nbd.CmdCache, 0, 0, 8*mib) },
			"long read":    func(c *client) { c.send(nbd.CmdRead, 0, 0, 8*mib) },
			"long write":   func(c *client) { c.send(nbd.CmdWrite, 0, 0, 8*mib); c.tell(numbered(8 * mib)) },
		}
		if structured {
			asks["long read, not to be fragmented"] = func(c *client) { c.send(nbd.CmdRead, nbd.CmdFlagDF, 0, 8*mib) }
			asks["block status"] = func(c *client) { c.send(nbd.CmdBlockStatus, 0, 0, 4096) }
		}
		for name, ask := range asks {
			t.Run(name, func(t *testing.T) {
				d := newDisk(1 << 30)
				e := open(t, d)
				c := enter(t, Config{Export: e}, structured)
				c.alive()
				e.Gate().Close()
				ask(c)
				// A client that is not done sending may see a reset.
				if rest, _ := io.ReadAll(c.in); len(rest) > 0 {
					t.Errorf("got %x", rest[:min(len(rest), 64)])
				}
				_ = c.Close()
				c.wantResult(false)
				if n := len(d.took("read")) + len(d.took("write")) + len(d.took("punch")) + len(d.took("extents")); n > 0 {
					t.Errorf("the store was called %d times", n)
				}
			})
		}
	})
}

// TestGateClosesInsideAReply has a long read on its way when the disk is given
// away: its data stops short, and nothing follows that could be taken for it.
func TestGateClosesInsideAReply(t *testing.T) {
	for name, test := range map[string]struct {
		structured bool
		flags      nbd.CommandFlags
	}{"simple": {}, "not to be fragmented": {true, nbd.CmdFlagDF}} {
		t.Run(name, func(t *testing.T) {
			content := numbered(8 * mib)
			d := newDisk(8 * mib)
			d.fill(t, content)
			e := open(t, d)
			c, q := transmit(t, e, test.structured)
			c.send(nbd.CmdRead, test.flags, 0, 8*mib)
			if test.structured {
				c.take(nbd.ChunkHeaderSize + nbd.OffsetDataSize)
			} else {
				c.take(nbd.SimpleReplySize)
			}
			got := c.take(mib)
			e.Gate().Hold()
			drain(t, e)
			submitted := q.submitted.Load()
			c.send(nbd.CmdRead, 0, 0, 4096)
			eventually(t, "the read arrives at the gate", func() bool { return q.submitted.Load() > submitted })
			e.Gate().Close()
			rest, _ := io.ReadAll(c.in)
			got = append(got, rest...)
			if len(got) >= 8*mib || len(got)%mib != 0 || !bytes.Equal(got, content[:len(got)]) {
				t.Errorf("got %d bytes, want less than 8 MiB of data and nothing else", len(got))
			}
			_ = c.Close()
			c.wantResult(false)
		})
	}
}

// TestNobodyInsideTheGateWaitsForASocket has clients that do not read, and that
// stop in the middle of a payload, while another one's hand-over begins.
func TestNobodyInsideTheGateWaitsForASocket(t *testing.T) {
	for name, pair := range map[string]func(testing.TB) (near, far net.Conn){
		"unix": func(t testing.TB) (net.Conn, net.Conn) { a, b := socketpair(t, unix.SOCK_STREAM); return a, b },
		"tcp":  func(t testing.TB) (net.Conn, net.Conn) { a, b := tcpPair(t); return a, b },
	} {
		t.Run(name, func(t *testing.T) {
			d := newDisk(64 * mib)
			d.fill(t, numbered(8*mib))
			e := open(t, d)
			near, far := pair(t)
			deaf, q := transmitOver(t, near, far, e, true)
			for range 20 {
				deaf.send(nbd.CmdRead, 0, 0, 4*mib)
			}
			near, far = pair(t)
			deafStream, q2 := transmitOver(t, near, far, e, false)
			deafStream.send(nbd.CmdRead, 0, 0, 64*mib)
			near, far = pair(t)
			stalled, q3 := transmitOver(t, near, far, e, false)
			stalled.send(nbd.CmdWrite, 0, 0, 2*mib, numbered(mib+mib/2))

			eventually(t, "the deaf client's budget is used up", func() bool { return q.lent.Load() == wire.DefaultBudget })
			eventually(t, "the stream is under way", func() bool { return q2.requests.Load() >= 2 })
			eventually(t, "the payload's first piece is written", func() bool { return len(d.took("write")) == 1 && q3.lent.Load() == mib })
			e.Gate().Hold()
			drain(t, e)
			e.Gate().Open()
		})
	}
}
