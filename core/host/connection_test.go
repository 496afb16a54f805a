// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// connection is a queue of a disk, as a client's connection has one.
type connection struct {
	t     *testing.T
	queue wire.Queue
}

// connect makes a queue that is closed at the end of the test.
func connect(t *testing.T, d *tortured) *connection {
	t.Helper()
	c := &connection{t: t, queue: d.NewQueue(context.Background(), func(done []*wire.Request) {
		for _, r := range done {
			close(r.Owner.(*request).done)
		}
	})}
	t.Cleanup(func() {
		if t.Failed() {
			_ = d.Abandon() // or Close might wait for ever
		}
		_ = c.queue.Close()
	})
	return c
}

// request is one that was submitted.
type request struct {
	wire.Request
	done chan struct{}
}

// ended says whether the request has been completed.
func (r *request) ended() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

func (c *connection) submit(r wire.Request) *request {
	q := &request{Request: r, done: make(chan struct{})}
	q.Owner = q
	c.queue.Submit([]*wire.Request{&q.Request})
	return q
}

// startWrite, startRead and startPunch do not wait.
func (c *connection) startWrite(off int64, text string, flags store.Flags) *request {
	return c.submit(wire.Request{Op: wire.OpWrite, Flags: flags, Offset: off, Length: int64(len(text)), Data: &wire.Payload{Bytes: []byte(text)}})
}

func (c *connection) startRead(off, n int64, mayLend bool) *request {
	return c.submit(wire.Request{Op: wire.OpRead, Offset: off, Length: n, Data: &wire.Payload{Bytes: make([]byte, n)}, MayLend: mayLend})
}

func (c *connection) startPunch(off, n int64) *request {
	return c.submit(wire.Request{Op: wire.OpZero, Offset: off, Length: n})
}

// wait waits for a request and returns its error.
func (c *connection) wait(r *request) error {
	select {
	case <-r.done:
		return r.Err
	case <-time.After(patience):
		return fmt.Errorf("a %v at %d does not end", r.Op, r.Offset)
	}
}

// write and read are for what has to succeed.
func (c *connection) write(off int64, text string) {
	c.t.Helper()
	if err := c.wait(c.startWrite(off, text, 0)); err != nil {
		c.t.Fatalf("write at %d: %v", off, err)
	}
}

func (c *connection) read(off, n int64) string {
	c.t.Helper()
	r := c.startRead(off, n, false)
	if err := c.wait(r); err != nil {
		c.t.Fatalf("read at %d: %v", off, err)
	}
	return string(r.Data.Bytes)
}

// calls are one request of each kind.
func (c *connection) calls() map[string]*request {
	return map[string]*request{
		"read":  c.startRead(0, 10, false),
		"write": c.startWrite(1000, "n", 0),
		"FUA":   c.startWrite(1000, "n", store.FUA),
		"punch": c.startPunch(2000, 100),
		"flush": c.submit(wire.Request{Op: wire.OpFlush}),
	}
}

// onFile checks that reads and writes take the file lane, and do what they should.
func (d *tortured) onFile(c *connection, text string) {
	d.t.Helper()
	d.journal(d.t)
	c.write(5000, text)
	if got := c.read(5000, int64(len(text))); got != text {
		d.t.Errorf("%q was read, and %q written", got, text)
	}
	if b, err := os.ReadFile(d.image); err != nil || !bytes.HasPrefix(b[5000:], []byte(text)) {
		d.t.Errorf("%q is not in the image (%v)", text, err)
	}
	if got := d.peek(); strings.Contains(got, "read") || strings.Contains(got, "write") {
		d.t.Errorf("the plugin did %q", got)
	}
	if d.Lane() != wire.LaneFile {
		d.t.Errorf("the lane is %s", d.Lane())
	}
}

// onRPC checks that they take the rpc lane.
func (d *tortured) onRPC(c *connection, text string) {
	d.t.Helper()
	d.journal(d.t)
	c.write(5000, text)
	if got := c.read(5000, int64(len(text))); got != text {
		d.t.Errorf("%q was read, and %q written", got, text)
	}
	if got := d.journal(d.t); got != "write read" {
		d.t.Errorf("the plugin did %q", got)
	}
	if d.Lane() != wire.LaneRPC {
		d.t.Errorf("the lane is %s", d.Lane())
	}
}

// occupy has a descriptor lent for a read, and does not leave it.
func (c *connection) occupy() *wire.Lent {
	c.t.Helper()
	r := c.startRead(0, torturedSize, true)
	if err := c.wait(r); err != nil {
		c.t.Fatal(err)
	}
	if r.Lent == nil {
		c.t.Fatal("no descriptor was lent: nothing of this kernel's says what is cached (Linux 6.5 does)")
	}
	return r.Lent
}

// isEnding says whether nobody may enter l any more.
func isEnding(l *wire.Lent) bool {
	if l.Enter() {
		l.Leave()
		return false
	}
	return true
}

// isOver says whether l has been closed.
func isOver(l *wire.Lent) bool {
	select {
	case <-l.Ended():
		return true
	default:
		return false
	}
}

// evict takes the image out of the page cache, where there is something behind it.
func (d *tortured) evict() {
	f, err := os.Open(d.image)
	if err != nil {
		d.t.Error(err)
		return
	}
	defer func() { _ = f.Close() }()
	_ = unix.Fdatasync(int(f.Fd()))
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}
