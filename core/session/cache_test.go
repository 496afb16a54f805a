// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"syscall"
	"testing"

	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// TestCacheReadsItsRange once, in pieces, and sends none of it.
func TestCacheReadsItsRange(t *testing.T) {
	both(t, func(t *testing.T, structured bool) {
		for _, r := range longReads {
			d := newDisk(8 * mib)
			c, q := transmit(t, open(t, d), structured)
			if got := c.must(nbd.CmdCache, 0, r.off, r.length); len(got.chunks) > 0 {
				t.Errorf("got %v", got.chunks)
			}
			c.leave()
			next := int64(r.off)
			for _, p := range d.took("read") {
				if p.off != next || p.length > wire.MaxPayload {
					t.Fatalf("piece %+v where %d is next", p, next)
				}
				next += p.length
			}
			if next != int64(r.off)+int64(r.length) {
				t.Errorf("%+v: it ended at %d", r, next)
			}
			if most := q.most.Load(); most > wire.MaxPayload {
				t.Errorf("%d bytes were borrowed at a time", most)
			}
		}
	})
}

func TestCacheWorksOnAReadOnlyExport(t *testing.T) {
	d := newDisk(testSize)
	d.info.ReadOnly = true
	c := simple(t, open(t, d))
	c.must(nbd.CmdCache, 0, 0, testSize)
	c.leave()
}

func TestCacheThatFails(t *testing.T) {
	both(t, func(t *testing.T, structured bool) {
		d := newDisk(8 * mib)
		d.failAt("read", 3*mib, syscall.EIO)
		c := enter(t, Config{Export: open(t, d)}, structured)
		if got := c.do(nbd.CmdCache, 0, 0, 8*mib); got.errno != nbd.EIO {
			t.Errorf("got %v", got.errno)
		}
		if n := len(d.took("read")); n != 4 {
			t.Errorf("%d pieces were tried, the fourth failed", n)
		}
		c.alive()
		c.leave()
	})
}

// TestOneCacheAtATime checks that a client which asks for much of it at once takes
// one piece of memory, and that its other requests are carried out meanwhile.
func TestOneCacheAtATime(t *testing.T) {
	d := newDisk(8 * mib)
	c, q := transmit(t, open(t, d), false)
	b := d.block(t, "read", mib)
	const n = 100
	for range n {
		c.send(nbd.CmdCache, 0, mib, 4*mib)
	}
	receive(t, b.entered)
	c.alive() // everything before it has been read
	c.must(nbd.CmdRead, 0, 0, 4096)
	if more := len(b.entered); more > 0 {
		t.Errorf("%d further ones are carried out", more)
	}
	eventually(t, "no more than one piece is borrowed", func() bool { return q.lent.Load() == wire.MaxPayload })
	b.release()
	c.all(n)
	c.leave()
}

// TestCacheIsNotWorthWaitingFor has a client ask for hours of reading, then leave, or
// the server stop.
func TestCacheIsNotWorthWaitingFor(t *testing.T) {
	stopping := make(chan struct{})
	for name, end := range map[string]func(*client){
		"DISC":       func(c *client) { c.say(nbd.AppendRequest(nil, nbd.Request{Command: nbd.CmdDisc})) },
		"half-close": func(c *client) { c.halfClose() },
		"stop":       func(*client) { close(stopping) },
	} {
		t.Run(name, func(t *testing.T) {
			d := newDisk(1 << 40)
			config := Config{Export: open(t, d)}
			if name == "stop" {
				config.Stopping = stopping
			}
			c := enter(t, config, false)
			b := d.block(t, "read", 0)
			const n = 50
			for range n {
				c.send(nbd.CmdCache, 0, 0, 1<<31)
			}
			c.alive() // everything before it has been read
			end(c)
			if name == "stop" {
				eventually(t, "new requests are refused", func() bool { return c.do(nbd.CmdFlush, 0, 0, 0).errno == nbd.ESHUTDOWN })
			}
			d.on(nil)
			b.release()
			for _, a := range c.all(n) { // it was only a hint
				if a.errno != 0 {
					t.Errorf("got %v", a.errno)
				}
			}
			c.wantEnd()
			_ = c.Close()
			c.wantResult(true)
			if reads := len(d.took("read")); reads > n*2048/10 {
				t.Errorf("%d pieces were read for nobody", reads)
			}
		})
	}
}
