// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/flexnbd/flexnbd/core/nbd"
)

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
