// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flexnbd/flexnbd/core/export"
	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// call is one request of the client, from its header to the last message of its
// reply. It is carried out in pieces, which complete in any order. It ends when
// all of them have completed and finish was called.
type call struct {
	t        *transmission
	request  nbd.Request
	accepted bool // counted in transmission.active

	// Of transmission.underway.
	arrived      time.Time
	older, newer *call

	left    atomic.Int32          // pieces that have not completed, and one until finish
	failure atomic.Pointer[error] // the first that a piece met
	whole   *piece                // the only piece of a read, once it has completed
	first   piece                 // most calls have no other
}

// calls are those that have been answered: one for each request would keep the
// garbage collector busy.
var calls = sync.Pool{New: func() any { return new(call) }}

// piece is one request to the queue that belongs to a call.
type piece struct {
	request wire.Request
	call    *call
	only    bool // the read it belongs to has no other
}

// newCall makes a call of a request that has just arrived.
func newCall(t *transmission, r nbd.Request) *call {
	c := calls.Get().(*call)
	c.t, c.request = t, r
	c.left.Store(1)
	t.underway.add(c)
	return c
}

// free gives a call back that nobody refers to any more: its last message has been
// sent.
func (c *call) free() {
	*c = call{}
	calls.Put(c)
}

// flags translates the command's flags for the store.
func (c *call) flags() (flags store.Flags) {
	if c.request.Flags.Has(nbd.CmdFlagFUA) {
		flags |= store.FUA
	}
	switch c.request.Command {
	case nbd.CmdTrim:
		flags |= store.Discard
	case nbd.CmdWriteZeroes:
		if c.request.Flags.Has(nbd.CmdFlagNoHole) {
			flags |= store.KeepAllocated
		}
		if c.request.Flags.Has(nbd.CmdFlagFastZero) {
			flags |= store.Fast
		}
	}
	return flags
}

// add makes a piece of the call, for the caller to submit.
func (c *call) add(op wire.Op, off, length int64, data *wire.Payload) *piece {
	c.left.Add(1)
	p := &c.first
	if p.call != nil {
		p = new(piece)
	}
	p.call = c
	p.request = wire.Request{Op: op, Flags: c.flags(), Offset: off, Length: length, Data: data, Owner: p}
	if op == wire.OpRead || op == wire.OpFlush {
		p.request.Flags = 0 // FUA is accepted and means nothing there
	}
	return p
}

// finish says that the call has all its pieces.
func (c *call) finish() { c.release() }

func (c *call) release() {
	if c.left.Add(-1) == 0 {
		c.end()
	}
}

// fail notes the first failure.
func (c *call) fail(err error) { c.failure.CompareAndSwap(nil, &err) }

func (c *call) err() error {
	if p := c.failure.Load(); p != nil {
		return *p
	}
	return nil
}

// completed takes a piece back from the queue.
func (p *piece) completed() {
	c := p.call
	if p.request.Err != nil {
		c.fail(p.request.Err)
	}
	if s := c.t.agreed.sender; s != nil {
		told(s, &p.request)
	}
	switch {
	case p.request.Op == wire.OpRead && p.only:
		c.whole = p
	case p.request.Op == wire.OpRead:
		c.t.sendChunk(p)
	case p.request.Data != nil:
		c.t.queue.Return(p.request.Data)
	}
	c.release()
}

// end answers the call. It is called once, by whoever releases it last.
func (c *call) end() {
	err := c.err()
	if err != nil {
		if c.whole != nil {
			c.t.queue.Return(c.whole.request.Data)
		}
		c.t.outbox.put(c.failed(err))
		return
	}
	var r reply
	switch {
	case c.whole != nil:
		r = c.data(c.whole)
	case c.request.Command == nbd.CmdRead && c.t.agreed.structured:
		r.setHead(nbd.AppendNoneChunk(r.head[:0], c.request.Cookie))
	default:
		r.setHead(nbd.AppendSimpleReply(r.head[:0], 0, c.request.Cookie))
	}
	r.call = c
	c.t.outbox.put(r)
}

// failed makes the reply to a call that met err.
func (c *call) failed(err error) reply {
	if errors.Is(err, export.ErrMovedAway) {
		// No reply: the client is to repeat the request at the disk's new home.
		c.t.fail(err)
		return reply{call: c}
	}
	errno := nbd.ErrnoOf(err, c.request.Flags.Has(nbd.CmdFlagFastZero))
	log := c.t.log.Warn
	if c.t.agreed.sender != nil {
		log = c.t.log.Info // many fail at once, and the sender says once what that means
	}
	log("request failed", "command", c.request.Command, "offset", c.request.Offset, "length", c.request.Length, "errno", errno, "error", err)
	return c.errorReply(errno, err.Error())
}

// errorReply ends a call with an error. With structured replies the client is
// told the reason in words too.
func (c *call) errorReply(errno nbd.Errno, why string) reply {
	r := reply{call: c}
	if c.t.agreed.structured && !onlySenders(c.request.Command) {
		r.body = nbd.AppendErrorChunk(nil, nbd.ChunkFlagDone, c.request.Cookie, errno, why)
	} else {
		r.setHead(nbd.AppendSimpleReply(r.head[:0], errno, c.request.Cookie))
	}
	return r
}

// waiter is the owner of a request whose submitter waits for it.
type waiter struct {
	request wire.Request
	done    chan struct{} // receives one token
}

func (w *waiter) completed() { w.done <- struct{}{} }

func newWaiter(r wire.Request) *waiter {
	w := &waiter{request: r, done: make(chan struct{}, 1)}
	w.request.Owner = w
	return w
}

// wait returns what became of the request.
func (w *waiter) wait() error {
	<-w.done
	return w.request.Err
}
