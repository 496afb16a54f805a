// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"

	"github.com/flexnbd/flexnbd/core/nbd"
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
