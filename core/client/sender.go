// SPDX-License-Identifier: GPL-3.0-or-later

package client

import (
	"fmt"
	"time"
)

// send is the goroutine that sends: batch after batch, until the pipeline breaks.
func (p *Pipeline) send() {
	defer p.exit()
	b := newBatch()
	for p.fill(b) {
		n, err := b.writeTo(p.conn)
		p.sent(b, n, err)
		b.reset()
	}
}

// fill waits for calls and takes as many as the batch and the table have room for.
// It returns false when nothing may be sent any more.
func (p *Pipeline) fill(b *batch) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.err == nil {
		for p.queue.head != nil && !b.full() && !p.table.full() {
			c := p.queue.pop()
			c.state = callSending
			b.add(c, p.table.put(c))
		}
		if len(b.calls) > 0 {
			return true
		}
		p.work.Wait()
	}
	return false
}

// sent takes note that the first n bytes of a batch have been sent, and tells the
// calls whose replies did not wait for that.
func (p *Pipeline) sent(b *batch, n int64, err error) {
	var done, lost callList
	p.mu.Lock()
	if err != nil {
		p.stopSending(fmt.Errorf("sending requests: %w", err))
	}
	why := p.err
	for _, c := range b.calls {
		n -= int64(wireSize(c))
		switch {
		case c.state == callReplied && n < 0 && c.errno == 0:
			p.settle(&lost, c) // whoever says that half a request is done cannot be believed
		case c.state == callReplied:
			p.settle(&done, c)
		case n >= 0:
			c.state = callSent
		default:
			c.state = callCut // its reply may still be on its way
		}
	}
	p.mu.Unlock()

	for c := done.pop(); c != nil; c = done.pop() {
		c.Done(verdictOf(c))
	}
	for c := lost.pop(); c != nil; c = lost.pop() {
		c.Done(why)
	}
}

// stopSending breaks the pipeline without closing the connection yet: the replies
// that the server gave before it went away are worth having. mu is held.
func (p *Pipeline) stopSending(why error) {
	if p.err == nil {
		_ = p.conn.SetReadDeadline(time.Now().Add(goodbyeTimeout))
	}
	p.setErr(why)
}

// settle ends a call that has its verdict: it is to be told. mu is held.
func (p *Pipeline) settle(done *callList, c *Call) {
	c.state = callIdle
	done.push(c)
	p.pending--
	if flushes(c.Request) {
		p.flushes--
	}
	p.checkIdle()
}

// verdictOf is what the server said about a call.
func verdictOf(c *Call) error {
	if c.errno != 0 {
		return c.errno
	}
	return nil
}
