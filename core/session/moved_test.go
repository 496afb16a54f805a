// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/core/export"
	"github.com/flexnbd/flexnbd/core/nbd"
)

// moving is a disk that is given away while a client is connected.
type moving struct {
	disk     *disk
	export   *export.Export
	stopping chan struct{}
	moved    chan struct{}
}

func newMoving(t *testing.T) *moving {
	d := newDisk(2 << 30)
	return &moving{disk: d, export: open(t, d), stopping: make(chan struct{}), moved: make(chan struct{})}
}

func (m *moving) config() Config {
	return Config{Export: m.export, Stopping: m.stopping, Moved: m.moved}
}

// giveAway does what the end of a migration does.
func (m *moving) giveAway(t *testing.T) {
	t.Helper()
	m.export.Gate().Hold()
	drain(t, m.export)
	m.export.Gate().Close()
	close(m.moved)
}

// wantMoved checks that the connection ends without another word, because of the
// move.
func (c *client) wantMoved() {
	c.t.Helper()
	if rest, _ := io.ReadAll(c.in); len(rest) > 0 { // a client that is not done sending may see a reset
		c.t.Errorf("got %x", rest[:min(len(rest), 64)])
	}
	_ = c.Close()
	if err := c.result(); !errors.Is(err, export.ErrMovedAway) {
		c.t.Errorf("Serve returned %v", err)
	}
}

// TestEveryConnectionEndsWhenTheDiskMoves checks that a client which has got no
// answer may repeat its requests elsewhere: nothing is answered, nothing done. With
// a server that stops already it is the same.
func TestEveryConnectionEndsWhenTheDiskMoves(t *testing.T) {
	atGate := func(ask func(c *client)) func(*client, *counting, *moving) {
		return func(c *client, q *counting, m *moving) {
			m.export.Gate().Hold()
			submitted := q.submitted.Load()
			ask(c)
			eventually(c.t, "requests arrive at the gate", func() bool { return q.submitted.Load() > submitted })
		}
	}
	for name, bring := range map[string]func(c *client, q *counting, m *moving){
		"idle": func(*client, *counting, *moving) {},
		"inside a header": func(c *client, _ *counting, _ *moving) {
			c.say(nbd.AppendRequest(nil, nbd.Request{Command: nbd.CmdFlush})[:27])
		},
		"inside a payload of 1 GiB": func(c *client, _ *counting, m *moving) {
			c.send(nbd.CmdWrite, 0, 0, 1<<30, numbered(3*mib+mib/2))
			eventually(c.t, "the first pieces are written", func() bool { return len(m.disk.took("write")) == 3 })
		},
		"with a read at the gate":      atGate(func(c *client) { c.send(nbd.CmdRead, 0, 0, 4096) }),
		"with everything at the gate":  atGate(func(c *client) { everything(c) }),
		"with a long read at the gate": atGate(func(c *client) { c.send(nbd.CmdRead, 0, 0, 64*mib) }),
		"with a long trim at the gate": atGate(func(c *client) { c.send(nbd.CmdTrim, 0, 0, 1<<30) }),
		"with many CACHEs at the gate": atGate(func(c *client) {
			for range 10 {
				c.send(nbd.CmdCache, 0, 0, 4096)
			}
		}),
		"with a piece of a payload at the gate": atGate(func(c *client) { c.send(nbd.CmdWrite, 0, 0, 1<<30, numbered(mib+4096)) }),
	} {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, structured bool) {
				for _, stopped := range []bool{false, true} {
					if stopped && (name == "idle" || name == "inside a header") {
						continue // a stopping server has ended it before
					}
					m := newMoving(t)
					near, far := socketpair(t, unix.SOCK_STREAM)
					c, q := transmitWith(t, near, far, m.config(), structured)
					c.alive()
					bring(c, q, m)
					if stopped {
						close(m.stopping)
					}
					before := len(m.disk.took("write")) + len(m.disk.took("punch"))
					m.giveAway(t)
					c.wantMoved()
					if after := len(m.disk.took("write")) + len(m.disk.took("punch")); after != before {
						t.Errorf("the store was called %d times", after-before)
					}
				}
			})
		})
	}
}

// TestHandshakeEndsWhenTheDiskMoves at once, in each part of it.
func TestHandshakeEndsWhenTheDiskMoves(t *testing.T) {
	flags := nbd.AppendClientFlags(nil, fixedNoZeroes)
	hello := nbd.AppendOption(nil, nbd.OptMigrate, nbd.AppendMigrationHello(nil, testHello()))
	for name, said := range map[string][]byte{
		"silent":            nil,
		"behind the flags":  flags,
		"inside an option":  slices.Concat(flags, nbd.AppendOption(nil, nbd.OptGo, make([]byte, 100))[:50]),
		"in a long hello":   slices.Concat(flags, hello),
		"behind its answer": slices.Concat(flags, nbd.AppendOption(nil, nbd.OptStructuredReply, nil)),
	} {
		for _, stopped := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m, h := newMoving(t), newHost(t)
					h.onHello = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
					config := m.config()
					config.Migration = h
					near, far := net.Pipe()
					c := connectOver(t, context.Background(), near, far, config)
					heard := make(chan struct{})
					go func() {
						defer close(heard)
						_, _ = io.Copy(io.Discard, near)
					}()
					c.tell(said)
					synctest.Wait()
					if stopped {
						close(m.stopping)
						synctest.Wait()
					}
					began := time.Now()
					m.giveAway(t)
					if err := c.result(); !errors.Is(err, export.ErrMovedAway) {
						t.Errorf("Serve returned %v", err)
					}
					if took := time.Since(began); took != 0 {
						t.Errorf("it took %v", took)
					}
					<-heard
				})
			})
		}
	}
}

// TestRepliesOnTheirWayOutliveTheMove has them wait for a client that has not read
// any when the disk is given away: what was acknowledged reaches it, then the end.
func TestRepliesOnTheirWayOutliveTheMove(t *testing.T) {
	both(t, func(t *testing.T, structured bool) {
		for _, stopped := range []bool{false, true} {
			m := newMoving(t)
			content := numbered(4 * mib)
			m.disk.fill(t, content)
			near, far := socketpair(t, unix.SOCK_STREAM)
			c, q := transmitWith(t, near, far, m.config(), structured)
			want := map[uint64]int{} // the MiB each read is of
			for i := range 3 {
				want[c.send(nbd.CmdRead, 0, uint64(i)*mib, mib)] = i
			}
			write := c.send(nbd.CmdWrite, 0, 8*mib, 4096, numbered(4096))
			eventually(t, "all of it is done", func() bool { return q.handled.Load() == 4 && len(m.disk.took("write")) == 1 })
			if stopped {
				close(m.stopping)
			}
			m.giveAway(t)
			for cookie, a := range c.all(4) {
				i := want[cookie]
				if a.errno != 0 || cookie != write && !bytes.Equal(a.data, content[i*mib:][:mib]) {
					t.Errorf("%x: got %v and %d bytes", cookie, a.errno, len(a.data))
				}
			}
			c.wantMoved()
		}
	})
}

// TestDeafClientDoesNotOutliveTheMove has clients that take no replies, so that even
// the reader waits for them.
func TestDeafClientDoesNotOutliveTheMove(t *testing.T) {
	for name, test := range map[string]struct {
		times int
		r     nbd.Request
	}{
		"one reply":                   {1, nbd.Request{Command: nbd.CmdRead, Length: mib}},
		"payload memory is used up":   {10, nbd.Request{Command: nbd.CmdRead, Length: mib}},
		"no more requests are read":   {2 * maxRequests, nbd.Request{Command: nbd.CmdFlush}},
		"a stream, which is long too": {3, nbd.Request{Command: nbd.CmdRead, Length: 64 * mib}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMoving(t)
				near, far := net.Pipe() // has no buffer
				c := connectOver(t, context.Background(), near, far, m.config())
				_ = near.SetDeadline(time.Time{})
				c.greet(fixedNoZeroes)
				c.enter()
				c.say(bytes.Repeat(nbd.AppendRequest(nil, test.r), test.times))
				synctest.Wait()
				began := time.Now()
				m.giveAway(t)
				synctest.Wait()
				if len(c.done) > 0 {
					t.Error("the session did not wait for a client that may only be slow")
				}
				if err := <-c.done; !errors.Is(err, export.ErrMovedAway) {
					t.Errorf("Serve returned %v", err)
				}
				if took := time.Since(began); took != sendTimeout {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}

// TestNobodyHearsOfTheStopOnceTheDiskHasMoved looks at the moment in which a server
// has been told of both, and the reader has not been woken.
func TestNobodyHearsOfTheStopOnceTheDiskHasMoved(t *testing.T) {
	m := newMoving(t)
	near, far := socketpair(t, unix.SOCK_STREAM)
	defer near.Close()
	defer far.Close()
	ts := newTransmission(context.Background(), far, nil, m.config(), &agreement{flags: transmissionFlags(m.export, false)}, &link{})
	ts.stopping.Store(true)
	close(m.moved)
	err := ts.handle(newCall(ts, nbd.Request{Command: nbd.CmdFlush}))
	if !errors.Is(err, export.ErrMovedAway) || len(ts.outbox.queue) > 0 {
		t.Errorf("got %v and %d replies", err, len(ts.outbox.queue))
	}
	if err := ts.queue.Close(); err != nil {
		t.Error(err)
	}
}

// TestMoveEndsASender too, and tells it.
func TestMoveEndsASender(t *testing.T) {
	m, h := newMoving(t), newHost(t)
	c, link := sender(t, h, m.config(), false)
	c.must(nbd.CmdWrite, 0, 0, 2*mib, numbered(2*mib))
	m.export.Gate().Hold()
	c.send(nbd.CmdWrite, 0, 0, 4096, numbered(4096))
	eventually(t, "the write has begun", func() bool { begun, _, _ := h.told(); return begun == 3 })
	m.giveAway(t)
	c.wantMoved()
	h.wantLeft(link, false)
	if _, ended, _ := h.told(); !errors.Is(ended[2], export.ErrMovedAway) {
		t.Errorf("the write ended with %v", ended[2])
	}
}
