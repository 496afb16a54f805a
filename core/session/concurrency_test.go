// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"bytes"
	"testing"

	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// TestRepliesComeInTheOrderOfCompletion lets reads complete last to first.
func TestRepliesComeInTheOrderOfCompletion(t *testing.T) {
	both(t, func(t *testing.T, structured bool) {
		const n = 100
		content := numbered(n * 4096)
		d := newDisk(n * 4096)
		d.fill(t, content)
		var release [n]chan struct{}
		for i := range release {
			release[i] = make(chan struct{})
		}
		entered := make(chan struct{}, n)
		c := enter(t, Config{Export: open(t, d)}, structured)
		d.on(func(call diskCall) error {
			entered <- struct{}{}
			<-release[call.off/4096]
			return nil
		})
		var cookies [n]uint64
		for i := range cookies {
			cookies[i] = c.send(nbd.CmdRead, 0, uint64(i)*4096, 4096)
		}
		for range n {
			receive(t, entered)
		}
		for i := n - 1; i >= 0; i-- {
			close(release[i])
			got := c.next()
			if got.cookie != cookies[i] || !bytes.Equal(got.data, content[i*4096:][:4096]) {
				t.Fatalf("read %d was released, %x answered, want %x", i, got.cookie, cookies[i])
			}
		}
		c.leave()
	})
}

func TestOneBlockedReadDelaysNoOther(t *testing.T) {
	d := newDisk(testSize)
	c := simple(t, open(t, d))
	b := d.block(t, "read", testSize/2)
	slow := c.send(nbd.CmdRead, 0, testSize/2, 4096)
	receive(t, b.entered)
	for range 500 { // also more than there are slots
		c.must(nbd.CmdRead, 0, 0, 4096)
	}
	c.must(nbd.CmdWrite, 0, testSize/2, 4096, numbered(4096))
	c.must(nbd.CmdFlush, 0, 0, 0)
	b.release()
	if got := c.next(); got.cookie != slow || got.errno != 0 {
		t.Errorf("got %+v", got)
	}
	c.leave()
}

// TestChecklist23DisconnectFinishesWhatIsInFlight also checks it for a client that ends its
// side without a word.
func TestChecklist23DisconnectFinishesWhatIsInFlight(t *testing.T) {
	for name, disconnect := range map[string]func(*client){
		"DISC":       func(c *client) { c.say(nbd.AppendRequest(nil, nbd.Request{Command: nbd.CmdDisc})) },
		"half-close": func(c *client) { c.halfClose() },
	} {
		both(t, func(t *testing.T, structured bool) {
			content := numbered(8 * mib)
			d := newDisk(8 * mib)
			d.fill(t, content)
			c := enter(t, Config{Export: open(t, d)}, structured)
			b := d.block(t, "read", 0)
			const n = 20
			reads := map[uint64]int{}
			for i := range n {
				reads[c.send(nbd.CmdRead, 0, uint64(i)*4096, 4096)] = i
			}
			long := c.send(nbd.CmdRead, 0, 0, 8*mib)
			disconnect(c)
			receive(t, b.entered)
			b.release()
			got := c.all(n + 1)
			for cookie, i := range reads {
				if !bytes.Equal(got[cookie].data, content[i*4096:][:4096]) {
					t.Errorf("%s: read %d is wrong", name, i)
				}
			}
			if !bytes.Equal(got[long].data, content) {
				t.Errorf("%s: the long read is wrong", name)
			}
			c.wantEnd()
			_ = c.Close()
			c.wantResult(true)
		})
	}
}

// TestClientThatNeverReads checks that it costs its own budget, delays nobody, and
// is gone when it goes.
func TestClientThatNeverReads(t *testing.T) {
	both(t, func(t *testing.T, structured bool) {
		d := newDisk(8 * mib)
		d.fill(t, numbered(8*mib))
		e := open(t, d)
		deaf, q := transmit(t, e, structured)
		var requests []byte
		for i := range 2000 {
			b, _ := deaf.request(nbd.CmdRead, 0, uint64(i%64)*4096, 65536)
			requests = append(requests, b...)
		}
		b, _ := deaf.request(nbd.CmdRead, 0, 0, 8*mib)
		deaf.say(requests, b)
		eventually(t, "the deaf client's budget is used up", func() bool { return q.lent.Load() == wire.DefaultBudget })

		other := enter(t, Config{Export: e}, structured)
		for range 100 {
			other.must(nbd.CmdRead, 0, 0, 65536)
		}
		other.must(nbd.CmdWrite, 0, 0, mib, numbered(mib))
		other.leave()

		if most := q.most.Load(); most > wire.DefaultBudget {
			t.Errorf("%d bytes were borrowed", most)
		}
		_ = deaf.Close()
		_ = deaf.result() // the counting queue checks that all was returned
	})
}

// TestUnansweredRequestsAreBounded pipelines flushes, which take no budget.
func TestUnansweredRequestsAreBounded(t *testing.T) {
	d := newDisk(testSize)
	c, q := transmit(t, open(t, d), false)
	b := d.block(t, "flush", 0)
	var requests []byte
	const n = 3 * maxRequests
	for range n {
		r, _ := c.request(nbd.CmdFlush, 0, 0, 0)
		requests = append(requests, r...)
	}
	c.say(requests)
	receive(t, b.entered)
	eventually(t, "all slots are taken", func() bool { return q.requests.Load() >= maxRequests })
	if got := q.requests.Load(); got != maxRequests {
		t.Errorf("%d requests are in flight", got)
	}
	b.release()
	for cookie, a := range c.all(n) {
		if a.errno != 0 {
			t.Errorf("%x: %v", cookie, a.errno)
		}
	}
	c.leave()
}

// TestBlockStatusTakesBudget has a client ask for extent maps and not read.
func TestBlockStatusTakesBudget(t *testing.T) {
	e := open(t, newMapped(1<<32, alternating(0, 1)))
	c, q := transmit(t, e, true)
	const n, extents = 80, 8000 // whose descriptors fill 64 KiB
	const length = extents * 512
	for range n {
		c.send(nbd.CmdBlockStatus, 0, 0, length)
	}
	eventually(t, "the budget is used up", func() bool { return q.lent.Load() == wire.DefaultBudget })
	for _, a := range c.all(n) {
		if len(a.extents) != extents {
			t.Fatalf("got %d extents, %v", len(a.extents), a.errno)
		}
	}
	c.leave()
}

// TestStreamAndFullBudget has a long read's first piece reach the client while the
// replies that wait behind it hold all the rest of the budget.
func TestStreamAndFullBudget(t *testing.T) {
	for name, test := range map[string]struct {
		structured bool
		flags      nbd.CommandFlags
	}{"simple": {}, "not to be fragmented": {true, nbd.CmdFlagDF}} {
		t.Run(name, func(t *testing.T) {
			content := numbered(8 * mib)
			d := newDisk(8 * mib)
			d.fill(t, content)
			c, q := transmit(t, open(t, d), test.structured)
			b := d.block(t, "read", mib) // the stream's second piece
			long := c.send(nbd.CmdRead, test.flags, 0, 8*mib)
			receive(t, b.entered)
			const n = 200
			for range n {
				c.send(nbd.CmdRead, 0, 0, 65536)
			}
			second := c.send(nbd.CmdRead, test.flags, 0, 8*mib)
			eventually(t, "the budget is used up", func() bool { return q.lent.Load() == wire.DefaultBudget })
			b.release()
			got := c.all(n + 2)
			if !bytes.Equal(got[long].data, content) || !bytes.Equal(got[second].data, content) {
				t.Error("a long read is wrong")
			}
			c.leave()
		})
	}
}

// TestPipelinedRequestsAreSubmittedTogether checks that the reader collects what
// has arrived.
func TestPipelinedRequestsAreSubmittedTogether(t *testing.T) {
	c, q := transmit(t, open(t, newDisk(testSize)), false)
	var said []byte
	const n = 100
	for i := range n {
		r, _ := c.request(nbd.CmdWrite, 0, uint64(i)*8, 8)
		said = append(append(said, r...), numbered(8)...)
	}
	c.say(said)
	c.all(n)
	c.leave()
	if got := q.submitted.Load(); got > n/10 {
		t.Errorf("%d requests that came together were submitted in %d batches", n, got)
	}
}
