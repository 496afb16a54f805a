// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/core/export"
	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// wantRefusal receives a reply that refuses an option, and checks its text.
func (c *client) wantRefusal(opt nbd.Option, rep nbd.Reply, text string) {
	c.t.Helper()
	if got := string(c.reply(opt, rep)); !strings.Contains(got, text) {
		c.t.Errorf("%v was refused with %q, want %q", opt, got, text)
	}
}

func TestOptionIsUnknownWithoutMigration(t *testing.T) {
	refused(t,
		refusedOption{"MIGRATE", nbd.OptMigrate, nbd.AppendMigrationHello(nil, testHello()), nbd.RepErrUnsup},
		refusedOption{"MIGRATE, malformed", nbd.OptMigrate, []byte("hello"), nbd.RepErrUnsup},
	)
}

func TestHelloIsHandedOnAndAnswered(t *testing.T) {
	h := newHost(t)
	c := connect(t, Config{Export: open(t, newDisk(testSize)), Migration: h, Peer: "192.0.2.1:33000"})
	c.greet(fixedNoZeroes)
	if got := c.hello(testHello()); got != h.answered {
		t.Errorf("got the answer %+v, want %+v", got, h.answered)
	}
	if _, _, hellos := h.noted(); len(hellos) != 1 || hellos[0] != testHello() {
		t.Errorf("Hello was called with %+v", hellos)
	}
	link := receive(t, h.links)
	if link.Peer() != "192.0.2.1:33000" {
		t.Errorf("the peer is %q", link.Peer())
	}
	c.enter()
	c.alive()
	c.leave()
	h.wantLeft(link, true)
}

// TestRefusedHelloLetsTheClientGoOn checks what each refusal says, and that the
// option can be tried again afterwards.
func TestRefusedHelloLetsTheClientGoOn(t *testing.T) {
	well := nbd.AppendMigrationHello(nil, testHello())
	reserved, version := nbd.AppendMigrationHello(nil, testHello()), nbd.AppendMigrationHello(nil, testHello())
	reserved[7], version[1] = 1, 9
	for name, test := range map[string]struct {
		data []byte
		err  error
		want nbd.Reply
		text string
	}{
		"short":               {well[:len(well)-1], nil, nbd.RepErrInvalid, "63 bytes"},
		"long":                {append(well[:len(well):len(well)], 0), nil, nbd.RepErrInvalid, "65 bytes"},
		"empty":               {nil, nil, nbd.RepErrInvalid, ""},
		"reserved bytes":      {reserved, nil, nbd.RepErrInvalid, "reserved"},
		"version":             {version, nil, nbd.RepErrInvalid, "version 9"},
		"far too long":        {make([]byte, nbd.MaxOptionLength+1), nil, nbd.RepErrTooBig, ""},
		"a refusal":           {well, &Refusal{nbd.RepErrUnknown, "another size"}, nbd.RepErrUnknown, "another size"},
		"a refusal, wrapped":  {well, fmt.Errorf("no: %w", &Refusal{nbd.RepErrInvalid, "not so"}), nbd.RepErrInvalid, "not so"},
		"any other error":     {well, errors.New("somebody else is sending"), nbd.RepErrPolicy, "somebody else is sending"},
		"an error of the sys": {well, syscall.ENOSPC, nbd.RepErrPolicy, "no space"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			err := test.err
			h.onHello = func(context.Context) error { return err }
			c := connect(t, Config{Export: open(t, newDisk(testSize)), Migration: h})
			c.greet(fixedNoZeroes)
			c.option(nbd.OptMigrate, test.data)
			c.wantRefusal(nbd.OptMigrate, test.want, test.text)
			c.ask(nbd.OptGo, nbd.AppendInfoRequest(nil, ""), nbd.RepErrPolicy) // no sender yet
			err = nil
			c.hello(testHello())
			c.enter()
			c.alive()
			c.leave()
		})
	}
}

func TestSecondHelloIsInvalid(t *testing.T) {
	h := newHost(t)
	c := connect(t, Config{Export: open(t, newDisk(testSize)), Migration: h})
	c.greet(fixedNoZeroes)
	c.hello(testHello())
	c.option(nbd.OptMigrate, nbd.AppendMigrationHello(nil, testHello()))
	c.wantRefusal(nbd.OptMigrate, nbd.RepErrInvalid, "once")
	if _, _, hellos := h.noted(); len(hellos) != 1 {
		t.Errorf("%d hellos were handed on", len(hellos))
	}
	c.enter()
	c.leave()
	h.wantLeft(receive(t, h.links), true)
}

func TestGuestIsTurnedAwayWithASentence(t *testing.T) {
	h := newHost(t)
	e := open(t, newDisk(testSize))
	c := connect(t, Config{Export: e, Migration: h})
	c.greet(fixedNoZeroes)
	for range 2 {
		c.option(nbd.OptList, nil)
		c.wantRefusal(nbd.OptList, nbd.RepErrPolicy, waitsForDisk)
		c.option(nbd.OptInfo, nbd.AppendInfoRequest(nil, ""))
		c.wantRefusal(nbd.OptInfo, nbd.RepErrPolicy, waitsForDisk)
		c.option(nbd.OptGo, nbd.AppendInfoRequest(nil, ""))
		c.wantRefusal(nbd.OptGo, nbd.RepErrPolicy, waitsForDisk)
	}
	h.setGuest("")
	c.option(nbd.OptList, nil)
	c.reply(nbd.OptList, nbd.RepServer)
	c.reply(nbd.OptList, nbd.RepAck)
	c.enter()
	c.alive()
	c.leave()
	if _, _, left := h.told(); len(left) > 0 {
		t.Error("a client was taken for a sender")
	}
}

func TestGuestByExportNameIsHungUpOn(t *testing.T) {
	for _, flags := range []nbd.ClientFlags{0, fixedNoZeroes} {
		h := newHost(t)
		e := open(t, newDisk(testSize))
		c := connect(t, Config{Export: e, Migration: h})
		c.greet(flags)
		c.option(nbd.OptExportName, nil)
		c.wantEnd()
		if err := c.result(); err == nil || !strings.Contains(err.Error(), waitsForDisk) {
			t.Errorf("Serve returned %v", err)
		}
		h.setGuest("")
		c = connect(t, Config{Export: e, Migration: h})
		c.greet(fixedNoZeroes)
		c.option(nbd.OptExportName, nil)
		c.take(nbd.ExportNameReplySize)
		c.alive()
		c.leave()
	}
}

// TestSenderMayEnterInEveryWay checks that a sender is no guest.
func TestSenderMayEnterInEveryWay(t *testing.T) {
	h := newHost(t)
	c := connect(t, Config{Export: open(t, newDisk(testSize)), Migration: h})
	c.greet(fixedNoZeroes)
	c.hello(testHello())
	c.option(nbd.OptList, nil)
	c.reply(nbd.OptList, nbd.RepServer)
	c.reply(nbd.OptList, nbd.RepAck)
	c.option(nbd.OptExportName, nil)
	c.take(nbd.ExportNameReplySize)
	c.must(nbd.CmdPrepare, 0, 0, 0)
	c.must(nbd.CmdRead, 0, 0, 512)
	c.leave()
	h.wantLeft(receive(t, h.links), true)
}

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

func (c *client) greetAndHello() {
	c.greet(fixedNoZeroes)
	c.hello(testHello())
}

// TestHelloThatWaits ends with the handshake's time, when the connection is cut, and
// soon when the server stops.
func TestHelloThatWaits(t *testing.T) {
	waits := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	play := func(conn net.Conn) {
		c := &client{t: t, Conn: conn, in: bufio.NewReader(conn)}
		c.greet(fixedNoZeroes)
		c.option(nbd.OptMigrate, nbd.AppendMigrationHello(nil, testHello()))
	}
	h := newHost(t)
	h.onHello = waits
	if took, err := timed(t, Config{Migration: h}, play); took != DefaultHandshakeTimeout || err == nil {
		t.Errorf("ended after %v with %v", took, err)
	}
	stopping := make(chan struct{})
	h = newHost(t)
	h.onHello = func(ctx context.Context) error { close(stopping); return waits(ctx) }
	if took, err := timed(t, Config{Migration: h, Stopping: stopping}, play); took != farewellTime || err != nil {
		t.Errorf("on a server that stops it ended after %v with %v", took, err)
	}
	h = newHost(t)
	h.onHello = waits
	c := connect(t, Config{Export: open(t, newDisk(testSize)), Migration: h})
	c.greet(fixedNoZeroes)
	c.option(nbd.OptMigrate, nbd.AppendMigrationHello(nil, testHello()))
	link := receive(t, h.links)
	link.Cut()
	receive(t, link.Ended())
	c.wantResult(true)
	if _, _, left := h.told(); len(left) > 0 {
		t.Error("a sender left that was never let in")
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

// TestOldstyleSender plays what flexnbd 0.x sends.
func TestOldstyleSender(t *testing.T) {
	for given, want := range map[error]nbd.Errno{nil: 0, fmt.Errorf("x: %w", nbd.EPERM): nbd.EPERM, syscall.ENOSPC: nbd.ENOSPC} {
		d, h := newDisk(4*mib), newHost(t)
		var entrusted atomic.Int64
		h.entrust = func(context.Context) error { entrusted.Add(1); return given }
		c := connect(t, Config{Export: open(t, d), Migration: h, Handshake: Oldstyle})
		c.take(nbd.OldstyleGreetingSize)
		link := receive(t, h.links)
		c.must(nbd.CmdWrite, 0, 512, 2*mib+512, numbered(2*mib+512))
		if begun, ended, _ := h.told(); begun != 3 || len(ended) != 3 {
			t.Errorf("%d began, %d ended", begun, len(ended))
		}
		for _, cmd := range []nbd.Command{nbd.CmdPrepare, nbd.CmdCommit} { // nobody agreed on them
			if got := c.do(cmd, 0, 0, 0); got.errno != nbd.EINVAL {
				t.Errorf("%v: %v", cmd, got.errno)
			}
		}
		for _, read := range []nbd.Request{{Offset: 0}, {Flags: nbd.CmdFlagFUA, Offset: 512}} { // of nothing
			c.must(nbd.CmdRead, read.Flags, read.Offset, 0)
		}
		if entrusted.Load() != 0 {
			t.Error("a READ was taken for ENTRUST")
		}
		r := nbd.EntrustRequest(77)
		c.pending[77] = r
		c.say([]byte("\x25\x60\x95\x13\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x4d\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
		if got := c.next(); got.cookie != 77 || got.errno != want {
			t.Errorf("got %+v, want %v", got, want)
		}
		c.leave()
		h.wantLeft(link, true)
		if n := entrusted.Load(); n != 1 {
			t.Errorf("Entrust was called %d times", n)
		}
	}
}

// logbook is where a log goes that a test reads.
type logbook struct {
	mu sync.Mutex
	bytes.Buffer
}

func (l *logbook) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.Write(b)
}

func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.String()
}

// TestOldstyleSenderReadsNothing, since it may be a client that was taken for one, and
// what it would get is no disk yet. The log says so where nobody has asked for more
// than warnings.
func TestOldstyleSenderReadsNothing(t *testing.T) {
	d, h := newDisk(testSize), newHost(t)
	var log logbook
	c := connect(t, Config{
		Export: open(t, d), Migration: h, Handshake: Oldstyle,
		Log: hclog.New(&hclog.LoggerOptions{Level: hclog.Warn, Output: &log}),
	})
	c.take(nbd.OldstyleGreetingSize)
	link := receive(t, h.links)
	c.must(nbd.CmdWrite, 0, 0, 512, numbered(512))
	for _, length := range []uint32{1, 512} {
		if got := c.do(nbd.CmdRead, 0, 0, length); got.errno != nbd.EPERM || len(got.data) > 0 {
			t.Errorf("READ of %d bytes: got %v and %d bytes", length, got.errno, len(got.data))
		}
	}
	if n := len(d.took("read")); n > 0 {
		t.Errorf("the store was read %d times", n)
	}
	if said := log.String(); strings.Count(said, "taken the oldstyle connection for the sender's") != 1 {
		t.Errorf("the log says %q", said)
	}
	c.must(nbd.CmdWrite, 0, 512, 512, numbered(512)) // it is a sender's all the same
	c.must(nbd.CmdFlush, 0, 0, 0)
	c.leave()
	h.wantLeft(link, true)

	h = newHost(t) // the disk is here: a client's reads are served
	h.setGuest("")
	h.greeted = func() (bool, error) { return true, nil }
	c = connect(t, Config{Export: open(t, d), Migration: h, Handshake: Oldstyle})
	c.take(nbd.OldstyleGreetingSize)
	c.must(nbd.CmdRead, 0, 0, 512)
	c.leave()
}

func TestOldstyleSenderIsCutAndLeft(t *testing.T) {
	h := newHost(t)
	c := connect(t, Config{Export: open(t, newDisk(testSize)), Migration: h, Handshake: Oldstyle})
	c.take(nbd.OldstyleGreetingSize)
	link := receive(t, h.links)
	link.Cut()
	h.wantLeft(link, false)
	c.wantResult(true)
}

// TestEntrustOfAClientIsAReadOfNothing in each handshake, and of a newstyle sender
// too.
func TestEntrustOfAClientIsAReadOfNothing(t *testing.T) {
	entrust := func(c *client) {
		t.Helper()
		if got := c.must(nbd.CmdEntrust, nbd.CmdFlagsEntrust, 0, 0); len(got.data) > 0 {
			t.Errorf("got %d bytes", len(got.data))
		}
		c.leave()
	}
	h := newHost(t)
	h.entrust = func(context.Context) error { t.Error("somebody entrusted a disk"); return nil }
	h.greeted = func() (bool, error) { return true, nil }
	c := connect(t, Config{Export: open(t, newDisk(testSize)), Migration: h, Handshake: Oldstyle})
	c.take(nbd.OldstyleGreetingSize)
	entrust(c)
	c = connect(t, Config{Export: open(t, newDisk(testSize)), Handshake: Oldstyle})
	c.take(nbd.OldstyleGreetingSize)
	entrust(c)
	both(t, func(t *testing.T, structured bool) {
		entrust(enter(t, Config{Export: open(t, newDisk(testSize))}, structured))
		c, _ := sender(t, h, Config{Export: open(t, newDisk(testSize))}, structured)
		entrust(c)
	})
}

func TestOldstyleConnectionThatIsNotLetInGetsNoGreeting(t *testing.T) {
	h := newHost(t)
	h.greeted = func() (bool, error) { return false, errors.New("another sender is connected") }
	c := connect(t, Config{Export: open(t, newDisk(testSize)), Migration: h, Handshake: Oldstyle})
	c.wantEnd()
	if err := c.result(); err == nil || !strings.Contains(err.Error(), "another sender is connected") {
		t.Errorf("Serve returned %v", err)
	}
	receive(t, receive(t, h.links).Ended())
	if _, _, left := h.told(); len(left) > 0 {
		t.Error("a sender left that was never let in")
	}
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
