// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"bytes"
	"context"
	"io"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/core/nbd"
)

func TestStopClosesAnIdleConnection(t *testing.T) {
	both(t, func(t *testing.T, structured bool) {
		stopping := make(chan struct{})
		c := enter(t, Config{Export: open(t, newDisk(testSize)), Stopping: stopping}, structured)
		c.alive()
		close(stopping)
		c.wantEnd()
		_ = c.Close()
		c.wantResult(true)
	})
}

// TestChecklist23StopFinishesWhatIsInFlight checks that it does, and that what comes
// meanwhile is refused, in step.
func TestChecklist23StopFinishesWhatIsInFlight(t *testing.T) {
	both(t, func(t *testing.T, structured bool) {
		content := numbered(testSize)
		d := newDisk(testSize)
		d.fill(t, content)
		stopping := make(chan struct{})
		c := enter(t, Config{Export: open(t, d), Stopping: stopping}, structured)
		b := d.block(t, "read", 0)
		read := c.send(nbd.CmdRead, 0, 0, 4096)
		receive(t, b.entered)
		close(stopping)
		eventually(t, "new requests are refused", func() bool { return c.do(nbd.CmdFlush, 0, 0, 0).errno == nbd.ESHUTDOWN })
		for _, cmd := range []nbd.Command{nbd.CmdRead, nbd.CmdWrite, nbd.CmdTrim, nbd.CmdWriteZeroes} {
			var payload []byte
			if cmd == nbd.CmdWrite {
				payload = make([]byte, 100000)
			}
			if got := c.do(cmd, 0, 0, 100000, payload); got.errno != nbd.ESHUTDOWN {
				t.Errorf("%v: %v", cmd, got.errno)
			}
		}
		b.release()
		if got := c.next(); got.cookie != read || !bytes.Equal(got.data, content[:4096]) {
			t.Errorf("got %+v", got)
		}
		c.wantEnd()
		_ = c.Close()
		c.wantResult(true)
		if len(d.took("write"))+len(d.took("punch")) > 0 {
			t.Error("a refused request reached the store")
		}
	})
}

// TestStopWaitsForAPayload stops the server while a write's payload is on its way.
func TestStopWaitsForAPayload(t *testing.T) {
	stopping := make(chan struct{})
	d := newDisk(8 * mib)
	near, far := socketpair(t, unix.SOCK_STREAM)
	c, q := transmitWith(t, near, far, Config{Export: open(t, d), Stopping: stopping}, false)
	content := numbered(4 * mib)
	c.send(nbd.CmdWrite, 0, 0, 4*mib, content[:mib/2])
	eventually(t, "the write has been accepted", func() bool { return q.lent.Load() > 0 })
	close(stopping)
	c.say(content[mib/2:])
	if got := c.next(); got.errno != 0 {
		t.Errorf("got %+v", got)
	}
	c.wantEnd()
	_ = c.Close()
	c.wantResult(true)
	if !bytes.Equal(d.content(t, 0, 4*mib), content) {
		t.Error("the write is not there")
	}
}

// TestStopAgainstRequestsThatKeepComing checks that a client can't hold a stopping
// server up by asking on.
func TestStopAgainstRequestsThatKeepComing(t *testing.T) {
	stopping := make(chan struct{})
	d := newDisk(testSize)
	c := enter(t, Config{Export: open(t, d), Stopping: stopping}, false)
	b := d.block(t, "read", 0)
	c.send(nbd.CmdRead, 0, 0, 4096)
	receive(t, b.entered)
	ended := make(chan struct{})
	go func() { // takes replies
		defer close(ended)
		_, _ = io.Copy(io.Discard, c.in)
	}()
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		flush := bytes.Repeat(nbd.AppendRequest(nil, nbd.Request{Command: nbd.CmdFlush}), 100)
		for {
			if _, err := c.Write(flush); err != nil {
				return
			}
		}
	}()
	close(stopping)
	b.release()
	receive(t, ended)
	_ = c.Close()
	<-asked
	c.wantResult(true)
}

// TestCutConnection checks that the client is cut off at once, and that Serve
// still waits for the store.
func TestCutConnection(t *testing.T) {
	both(t, func(t *testing.T, structured bool) {
		ctx, cut := context.WithCancel(context.Background())
		defer cut()
		d := newDisk(8 * mib)
		c := connectWith(t, ctx, Config{Export: open(t, d)})
		c.greet(fixedNoZeroes)
		if structured {
			c.structure()
		}
		c.enter()
		b := d.block(t, "read", 0)
		c.send(nbd.CmdRead, 0, 0, 4096)
		c.send(nbd.CmdRead, 0, 0, 8*mib)
		receive(t, b.entered)
		cut()
		_, _ = io.Copy(io.Discard, c.in)
		select {
		case err := <-c.done:
			t.Errorf("Serve returned %v with a request in the store", err)
		default:
		}
		b.release()
		c.wantResult(false)
	})
}

// TestCutWhileTheGateIsHeld checks that nothing waits for it to open.
func TestCutWhileTheGateIsHeld(t *testing.T) {
	ctx, cut := context.WithCancel(context.Background())
	defer cut()
	d := newDisk(testSize)
	e := open(t, d)
	c := connectWith(t, ctx, Config{Export: e})
	c.greet(fixedNoZeroes)
	c.structure()
	c.enter()
	e.Gate().Hold()
	everything(c)
	cut()
	c.wantResult(false)
	if n := len(d.took("read")) + len(d.took("write")); n > 0 {
		t.Errorf("%d requests passed a held gate", n)
	}
}

// TestClientThatDisconnectsAndNeverReads is given up some time.
func TestClientThatDisconnectsAndNeverReads(t *testing.T) {
	took, err := timed(t, Config{}, func(conn net.Conn) {
		b := make([]byte, nbd.GreetingSize)
		_, _ = io.ReadFull(conn, b)
		_, _ = conn.Write(nbd.AppendOption(nbd.AppendClientFlags(nil, fixedNoZeroes), nbd.OptExportName, nil))
		_, _ = io.ReadFull(conn, b[:nbd.ExportNameReplySize])
		_, _ = conn.Write(nbd.AppendRequest(nil, nbd.Request{Command: nbd.CmdFlush}))
		_, _ = conn.Write(nbd.AppendRequest(nil, nbd.Request{Command: nbd.CmdDisc}))
	})
	if took != sendTimeout || err == nil {
		t.Errorf("ended after %v with %v", took, err)
	}
}

// TestEndDestroysNoReplies has the session end with data of the client's unread:
// closing then would make the kernel reset the connection.
func TestEndDestroysNoReplies(t *testing.T) {
	near, far := tcpPair(t)
	c, _ := transmitOver(t, near, far, open(t, newDisk(testSize)), false)
	read := c.send(nbd.CmdRead, 0, 0, 65536)
	c.say(nbd.AppendRequest(nil, nbd.Request{Command: nbd.CmdDisc}), make([]byte, intakeSize))
	if got := c.next(); got.cookie != read || len(got.data) != 65536 {
		t.Errorf("got %+v", got)
	}
	c.wantEnd()
	_ = c.Close()
	c.wantResult(true)
}
