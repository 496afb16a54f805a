// SPDX-License-Identifier: GPL-3.0-or-later

package client

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// replyBuffer holds the replies that come at once, in bytes.
const replyBuffer = 1024 * nbd.SimpleReplySize

// receive is the goroutine that receives: replies, as many as there are, until the
// connection ends.
func (p *Pipeline) receive() {
	defer p.exit()
	buf := make([]byte, replyBuffer)
	have := 0
	for {
		n, readErr := p.conn.Read(buf[have:])
		have += n
		used, err := p.accept(buf[:have], n > 0)
		if err == nil && readErr != nil {
			err = p.endOf(readErr, have-used)
		}
		if err != nil {
			p.fail(err)
			return
		}
		have = copy(buf, buf[used:have])
	}
}

// accept takes the complete replies out of b and tells their calls. heard says that
// there was something new in it.
func (p *Pipeline) accept(b []byte, heard bool) (used int, err error) {
	var done callList
	p.mu.Lock()
	full := p.table.full()
	for err == nil && len(b)-used >= nbd.SimpleReplySize {
		if err = p.reply(&done, b[used:]); err == nil {
			used += nbd.SimpleReplySize
		}
	}
	if heard && p.pending > 0 && p.err == nil {
		p.expect()
	}
	if full && !p.table.full() {
		p.work.Signal()
	}
	p.mu.Unlock()

	for c := done.pop(); c != nil; c = done.pop() {
		c.Done(verdictOf(c))
	}
	return used, err
}

// reply takes in one reply. mu is held.
func (p *Pipeline) reply(done *callList, b []byte) error {
	r, err := nbd.DecodeSimpleReply(b)
	if err != nil {
		return fmt.Errorf("the server breaks the protocol in a reply, which begins with % x: %w", b[:4], err)
	}
	c := p.table.take(r.Cookie)
	if c == nil {
		return breach("it replies to request %#x, which is not in flight", r.Cookie)
	}
	c.errno = r.Errno
	switch {
	case c.state == callSending:
		c.state = callReplied // the sender tells it
	case c.state == callCut && c.errno == 0:
		p.doubted.push(c) // exit tells it: whoever says that half a request is done cannot be believed
	default:
		p.settle(done, c)
	}
	return nil
}

// expect gives the server time until it has to have said something. mu is held.
func (p *Pipeline) expect() {
	p.deadline = time.Now().Add(p.patience())
	_ = p.conn.SetReadDeadline(p.deadline)
}

// patience is how long the server may say nothing now. mu is held.
func (p *Pipeline) patience() time.Duration {
	if p.flushes > 0 {
		return max(p.timeout, p.flushTimeout)
	}
	return p.timeout
}

// endOf returns what the end of reading means, with rest bytes of a reply there,
// nil if it does not end anything.
func (p *Pipeline) endOf(err error, rest int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case errors.Is(err, io.EOF) && rest > 0:
		return receiving("a reply", err)
	case errors.Is(err, io.EOF):
		return fmt.Errorf("the server closed the connection with %d requests unanswered: %w", p.pending, io.ErrUnexpectedEOF)
	case !errors.Is(err, os.ErrDeadlineExceeded) || p.err != nil:
		return fmt.Errorf("receiving replies: %w", err)
	case p.pending == 0:
		// It was set for calls that have been answered since. The next call sets
		// another one.
		p.deadline = time.Time{}
		_ = p.conn.SetReadDeadline(p.deadline)
		return nil
	case time.Now().Before(p.deadline):
		return nil // a new one was set just when it passed
	}
	return fmt.Errorf("the server said nothing for %v, with %d requests unanswered: %w", p.patience(), p.pending, err)
}
