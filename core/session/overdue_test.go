// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flexnbd/flexnbd/core/export"
	"github.com/flexnbd/flexnbd/core/nbd"
)

const testLimit = 2 * time.Minute

// overdue plays a client on a clock of its own, on a server that gives a request
// testLimit. play begins in the transmission phase and returns when the client has
// seen the connection's end.
func overdue(t *testing.T, config Config, play func(c *client, d *disk, e *export.Export)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		d := newDisk(testSize)
		e := open(t, d)
		config.Export, config.RequestTimeout = e, testLimit
		near, far := net.Pipe() // has no buffer
		c := connectOver(t, context.Background(), near, far, config)
		_ = near.SetDeadline(time.Time{})
		if config.Handshake == Oldstyle {
			c.take(nbd.OldstyleGreetingSize)
		} else {
			c.greet(fixedNoZeroes)
			c.enter()
		}
		play(c, d, e)
	})
}

// wantCut waits for the end and checks when and why it comes.
func (c *client) wantCut(began time.Time, after time.Duration, why string) {
	c.t.Helper()
	_, _ = io.Copy(io.Discard, c.in)
	if took := time.Since(began); took != after {
		c.t.Errorf("the client was disconnected after %v, not %v", took, after)
	}
	if err := c.result(); err == nil || !strings.Contains(err.Error(), why+" took more than 2m0s") {
		c.t.Errorf("Serve returned %v", err)
	}
}

func TestOverduePayload(t *testing.T) {
	for _, style := range []Handshake{Newstyle, Oldstyle} {
		overdue(t, Config{Handshake: style}, func(c *client, _ *disk, _ *export.Export) {
			began := time.Now()
			c.send(nbd.CmdWrite, 0, 512, 4096)
			c.say(numbered(4095))
			c.wantCut(began, testLimit, "WRITE of 4096 bytes at 512")
		})
	}
}

// TestOverdueReply has a client that does not take the last byte of it.
func TestOverdueReply(t *testing.T) {
	overdue(t, Config{}, func(c *client, d *disk, _ *export.Export) {
		d.fill(t, numbered(testSize))
		began := time.Now()
		c.send(nbd.CmdRead, 0, 0, 4096)
		_, _ = io.ReadFull(c.Conn, make([]byte, nbd.SimpleReplySize+4095))
		if err := <-c.done; err == nil || !strings.Contains(err.Error(), "READ of 4096 bytes at 0 took more than") {
			t.Errorf("Serve returned %v", err)
		}
		if took := time.Since(began); took != testLimit {
			t.Errorf("it took %v", took)
		}
	})
}

// TestOverdueBackend checks that the client is disconnected at once, and that the
// session still waits for the backend.
func TestOverdueBackend(t *testing.T) {
	overdue(t, Config{}, func(c *client, d *disk, _ *export.Export) {
		b := d.block(t, "flush", 0)
		began := time.Now()
		c.send(nbd.CmdFlush, 0, 0, 0)
		_, _ = io.Copy(io.Discard, c.in)
		if took := time.Since(began); took != testLimit {
			t.Errorf("the client was disconnected after %v", took)
		}
		synctest.Wait()
		if len(c.done) > 0 {
			t.Error("the session did not wait for the backend")
		}
		b.release()
		c.wantCut(began, testLimit, "FLUSH of 0 bytes at 0")
	})
}

// TestOverdueAtTheGate checks that a gate which is held keeps nobody.
func TestOverdueAtTheGate(t *testing.T) {
	overdue(t, Config{}, func(c *client, _ *disk, e *export.Export) {
		e.Gate().Hold()
		began := time.Now()
		c.send(nbd.CmdRead, 0, 0, 4096)
		c.wantCut(began, testLimit, "READ of 4096 bytes at 0")
	})
}

// TestOldestRequestIsOverdueFirst has a slow one among many that are answered, and
// one that begins late.
func TestOldestRequestIsOverdueFirst(t *testing.T) {
	overdue(t, Config{}, func(c *client, d *disk, _ *export.Export) {
		c.alive()
		time.Sleep(testLimit - time.Second) // idle: the watch is in the middle of its time
		b := d.block(t, "read", 4096)
		began := time.Now()
		c.send(nbd.CmdRead, 0, 4096, 512)
		for time.Since(began) < testLimit-time.Second {
			time.Sleep(time.Second)
			c.must(nbd.CmdRead, 0, 0, 512)
		}
		c.send(nbd.CmdRead, 0, 8192, 512)
		_, _ = io.Copy(io.Discard, c.in)
		b.release()
		c.wantCut(began, testLimit, "READ of 512 bytes at 4096")
	})
}

// TestNothingIsOverdue where requests take their time, but not too much of it, and
// where there are none.
func TestNothingIsOverdue(t *testing.T) {
	overdue(t, Config{}, func(c *client, d *disk, _ *export.Export) {
		d.on(func(call diskCall) error {
			time.Sleep(testLimit - time.Second)
			return nil
		})
		for i := range 5 {
			c.must(nbd.CmdFlush, 0, 0, 0)
			if got := c.do(9, 0, 0, 0); got.errno != nbd.EINVAL { // is refused at once
				t.Errorf("got %v", got.errno)
			}
			time.Sleep(time.Duration(i) * time.Hour)
		}
		c.leave()
	})
}

// TestRequestsMayTakeForEver where there is no limit.
func TestRequestsMayTakeForEver(t *testing.T) {
	took, err := timed(t, Config{}, func(conn net.Conn) {
		defer conn.Close()
		b := make([]byte, nbd.GreetingSize)
		_, _ = io.ReadFull(conn, b)
		_, _ = conn.Write(nbd.AppendOption(nbd.AppendClientFlags(nil, fixedNoZeroes), nbd.OptExportName, nil))
		_, _ = io.ReadFull(conn, b[:nbd.ExportNameReplySize])
		_, _ = conn.Write(nbd.AppendRequest(nil, nbd.Request{Command: nbd.CmdWrite, Length: 1}))
		time.Sleep(time.Hour)
		_, _ = conn.Write([]byte{1})
		_, _ = io.ReadFull(conn, b[:nbd.SimpleReplySize])
		_, _ = conn.Write(nbd.AppendRequest(nil, nbd.Request{Command: nbd.CmdDisc}))
	})
	if took != time.Hour || err != nil {
		t.Errorf("ended after %v with %v", took, err)
	}
}

// TestRequestsUnderWay goes through the list's order with removals at both ends and
// in the middle.
func TestRequestsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &underway{limit: time.Minute}
		calls := make([]*call, 5)
		for i := range calls {
			calls[i] = &call{request: nbd.Request{Cookie: uint64(i)}}
			u.add(calls[i])
			time.Sleep(time.Second)
		}
		for _, step := range []struct {
			remove int
			oldest time.Duration // when it arrived
		}{{2, 0}, {0, 1}, {4, 1}, {1, 3}} {
			u.remove(calls[step.remove])
			if late, wait := u.next(); late != nil || wait != time.Minute-(5-step.oldest)*time.Second {
				t.Errorf("without %d: %v, %v", step.remove, late, wait)
			}
		}
		time.Sleep(58 * time.Second)
		if late, _ := u.next(); late == nil || late.Cookie != 3 {
			t.Errorf("got %v", late)
		}
		u.remove(calls[3])
		if late, wait := u.next(); late != nil || wait != time.Minute || u.oldest != nil || u.newest != nil {
			t.Errorf("an empty list: %v, %v", late, wait)
		}
	})
}
