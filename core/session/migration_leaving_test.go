// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"bufio"
	"context"
	"net"
	"syscall"
	"testing"
	"testing/synctest"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/core/export"
	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// TestSenderLeaves ends the transmission phase in every way.
func TestSenderLeaves(t *testing.T) {
	disc := nbd.AppendRequest(nil, nbd.Request{Command: nbd.CmdDisc})
	for name, test := range map[string]struct {
		leave func(c *client, link Link, cutServer func())
		disc  bool
	}{
		"goodbye":                 {func(c *client, _ Link, _ func()) { c.say(disc) }, true},
		"goodbye, then closed":    {func(c *client, _ Link, _ func()) { c.say(disc); _ = c.Close() }, true},
		"goodbye after a write":   {func(c *client, _ Link, _ func()) { c.send(nbd.CmdWrite, 0, 0, 512, numbered(512), disc) }, true},
		"end of file":             {func(c *client, _ Link, _ func()) { c.halfClose() }, false},
		"closed":                  {func(c *client, _ Link, _ func()) { _ = c.Close() }, false},
		"end inside a header":     {func(c *client, _ Link, _ func()) { c.say(disc[:27]); c.halfClose() }, false},
		"end inside a payload":    {func(c *client, _ Link, _ func()) { c.send(nbd.CmdWrite, 0, 0, 4096, numbered(4095)); c.halfClose() }, false},
		"goodbye as payload":      {func(c *client, _ Link, _ func()) { c.send(nbd.CmdWrite, 0, 0, 4096, disc); c.halfClose() }, false},
		"a wrong magic":           {func(c *client, _ Link, _ func()) { c.say(make([]byte, nbd.RequestSize)) }, false},
		"writes, then the end":    {func(c *client, _ Link, _ func()) { c.send(nbd.CmdWrite, 0, 0, 512, numbered(512)); c.halfClose() }, false},
		"cut":                     {func(_ *client, link Link, _ func()) { link.Cut(); link.Cut() }, false},
		"cut with all the others": {func(_ *client, _ Link, cutServer func()) { cutServer() }, false},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			ctx, cut := context.WithCancel(context.Background())
			defer cut()
			c := connectWith(t, ctx, Config{Export: open(t, newDisk(testSize)), Migration: h})
			c.greet(fixedNoZeroes)
			c.hello(testHello())
			c.enter()
			c.alive()
			link := receive(t, h.links)
			test.leave(c, link, cut)
			h.wantLeft(link, test.disc)
			_ = c.Close()
			_ = c.result() // which of several reasons comes first is open
			link.Cut()     // of a connection that has gone
		})
	}
}

// TestSenderLeavesInTheHandshake ends it after the hello.
func TestSenderLeavesInTheHandshake(t *testing.T) {
	for name, leave := range map[string]func(c *client, link Link){
		"ABORT":       func(c *client, _ Link) { c.ask(nbd.OptAbort, nil, nbd.RepAck) },
		"end of file": func(c *client, _ Link) { c.halfClose() },
		"closed":      func(c *client, _ Link) { _ = c.Close() },
		"nonsense":    func(c *client, _ Link) { c.say([]byte("this is no option at all")) },
		"EXPORT_NAME": func(c *client, _ Link) { c.option(nbd.OptExportName, []byte("of another")) },
		"cut":         func(_ *client, link Link) { link.Cut() },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			c := connect(t, Config{Export: open(t, newDisk(testSize)), Migration: h})
			c.greet(fixedNoZeroes)
			c.hello(testHello())
			link := receive(t, h.links)
			leave(c, link)
			h.wantLeft(link, false)
			_ = c.result() // which of several reasons comes first is open
		})
	}
}

// TestSenderThatFallsSilentInTheHandshake is cut when its time is up, and left.
func TestSenderThatFallsSilentInTheHandshake(t *testing.T) {
	h := newHost(t)
	took, err := timed(t, Config{Migration: h}, func(conn net.Conn) {
		(&client{t: t, Conn: conn, in: bufio.NewReader(conn)}).greetAndHello()
	})
	if took != DefaultHandshakeTimeout || err == nil {
		t.Errorf("ended after %v with %v", took, err)
	}
	if _, _, left := h.told(); len(left) != 1 || left[0] {
		t.Errorf("Left was called with %v", left)
	}
}

// TestEndedWaitsForTheStore has a write that hangs in it when the connection ends.
func TestEndedWaitsForTheStore(t *testing.T) {
	for name, leave := range map[string]func(c *client, link Link){
		"cut":     func(_ *client, link Link) { link.Cut() },
		"goodbye": func(c *client, _ Link) { c.say(nbd.AppendRequest(nil, nbd.Request{Command: nbd.CmdDisc})) },
		"gone":    func(c *client, _ Link) { _ = c.Close() },
	} {
		for kind, ch := range changes {
			t.Run(name+" with a "+kind, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					d, h := newDisk(sendSize), newHost(t)
					b := d.block(t, ch.op, 0)
					near, far := net.Pipe()
					c := connectOver(t, context.Background(), near, far, Config{Export: open(t, d), Migration: h})
					c.greetAndHello()
					c.enter()
					link := receive(t, h.links)
					var payload []byte
					if ch.cmd == nbd.CmdWrite {
						payload = numbered(int(ch.length))
					}
					c.send(ch.cmd, 0, 0, uint32(ch.length), payload)
					<-b.entered
					leave(c, link)
					synctest.Wait()
					if _, _, left := h.told(); len(left) > 0 || isClosed(link.Ended()) {
						t.Error("the connection was left with a request in the store")
					}
					b.release()
					_ = c.Close()
					h.wantLeft(link, name == "goodbye")
				})
			})
		}
	}
}

// TestCutEndsTheConnectionInEveryState checks that it waits for nobody but the
// store.
func TestCutEndsTheConnectionInEveryState(t *testing.T) {
	for name, bring := range map[string]func(c *client, d *disk, e *export.Export, h *host){
		"idle": func(c *client, _ *disk, _ *export.Export, _ *host) { c.alive() },
		"inside a payload": func(c *client, d *disk, _ *export.Export, _ *host) {
			c.send(nbd.CmdWrite, 0, 0, 64*mib, numbered(2*mib+mib/2))
			eventually(c.t, "its first pieces are written", func() bool { return len(d.took("write")) == 2 })
		},
		"at a held gate": func(c *client, _ *disk, e *export.Export, h *host) {
			e.Gate().Hold()
			c.send(nbd.CmdWrite, 0, 0, 4096, numbered(4096))
			eventually(c.t, "a write has begun", func() bool { begun, _, _ := h.told(); return begun == 1 })
		},
		"at a held gate with a long zeroing": func(c *client, _ *disk, e *export.Export, h *host) {
			e.Gate().Hold()
			c.send(nbd.CmdWriteZeroes, 0, 0, 128*mib)
			eventually(c.t, "a piece has begun", func() bool { begun, _, _ := h.told(); return begun == 1 })
		},
		"without memory for payload, which replies hold": func(c *client, d *disk, _ *export.Export, _ *host) {
			for range 20 {
				c.send(nbd.CmdRead, 0, 0, mib)
			}
			eventually(c.t, "the memory is used up", func() bool { return len(d.took("read")) >= wire.DefaultBudget/mib })
		},
		"with replies to be taken": func(c *client, d *disk, _ *export.Export, _ *host) {
			c.send(nbd.CmdRead, 0, 0, 64*mib)
			eventually(c.t, "the stream is under way", func() bool { return len(d.took("read")) > 1 })
		},
		"in a PREPARE": func(c *client, _ *disk, _ *export.Export, h *host) {
			c.send(nbd.CmdPrepare, 0, 0, 0)
			eventually(c.t, "it has begun", func() bool { events, _, _ := h.noted(); return len(events) > 0 })
		},
	} {
		t.Run(name, func(t *testing.T) {
			d, h := newDisk(sendSize), newHost(t)
			h.prepare = func(ctx context.Context) error { h.note("prepare"); <-ctx.Done(); return ctx.Err() }
			e := open(t, d)
			c, link := sender(t, h, Config{Export: e}, false)
			bring(c, d, e, h)
			link.Cut()
			h.wantLeft(link, false)
			c.wantResult(true) // whoever cut it says why
		})
	}
	t.Run("without memory for payload, which the store holds", func(t *testing.T) {
		d, h := newDisk(sendSize), newHost(t)
		b := d.block(t, "write", 0)
		c, link := sender(t, h, Config{Export: open(t, d)}, false)
		writing := make(chan struct{})
		go func() {
			defer close(writing)
			r := nbd.AppendRequest(nil, nbd.Request{Command: nbd.CmdWrite, Length: 8 * mib})
			c.tell(append(r, numbered(8*mib)...))
		}()
		for range wire.DefaultBudget / mib {
			receive(t, b.entered)
		}
		link.Cut()
		<-writing
		b.release()
		h.wantLeft(link, false)
		c.wantResult(true)
	})
}

// TestSenderIsAskedForSignsOfLife looks at the socket's options.
func TestSenderIsAskedForSignsOfLife(t *testing.T) {
	for _, style := range []Handshake{Newstyle, Oldstyle} {
		h := newHost(t)
		near, far := tcpPair(t)
		if err := far.SetKeepAlive(false); err != nil {
			t.Fatal(err)
		}
		c := connectOver(t, context.Background(), near, far, Config{Export: open(t, newDisk(testSize)), Migration: h, Handshake: style})
		if style == Oldstyle {
			c.take(nbd.OldstyleGreetingSize)
		} else {
			c.greet(fixedNoZeroes)
			if got := keepalive(t, far); got[0] != 0 {
				t.Error("somebody is asked who is no sender yet")
			}
			c.hello(testHello())
			c.enter()
		}
		if got, want := keepalive(t, far), [4]int{1, 4, 2, 3}; got != want {
			t.Errorf("got %v, want %v", got, want)
		}
		c.leave()
	}
}

// keepalive returns whether a peer is asked, after how many seconds, how often, and
// how many times.
func keepalive(t *testing.T, conn syscall.Conn) (got [4]int) {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = raw.Control(func(fd uintptr) {
		for i, option := range [][2]int{
			{unix.SOL_SOCKET, unix.SO_KEEPALIVE}, {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE},
			{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL}, {unix.IPPROTO_TCP, unix.TCP_KEEPCNT},
		} {
			if got[i], err = unix.GetsockoptInt(int(fd), option[0], option[1]); err != nil {
				t.Error(err)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}
