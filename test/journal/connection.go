// SPDX-License-Identifier: GPL-3.0-or-later

package journal

import (
	"errors"
	"fmt"
	"time"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// connection is one of a Load's clients. Its goroutine alone uses it.
type connection struct {
	load   *Load
	number int // within the Disk
	picker *picker
	seq    uint64 // of the last write
	buf    []byte // a header and a payload

	line *line // nil: not connected
	turn int   // the server to try next
}

// run makes requests until the load stops or this connection fails.
func (c *connection) run() {
	defer func() {
		if c.line != nil {
			c.line.hangUp(true)
		}
		c.load.ended()
	}()
	for {
		k, off, length := c.picker.next()
		if !c.load.pace.wait(length, c.load.stopping) || !c.load.enter() {
			return
		}
		err := c.perform(k, off, length)
		c.load.leave()
		if err != nil {
			c.load.fail(c.number, err)
			return
		}
	}
}

// perform makes one request, and repeats it until it is answered. The error is nil
// as well when Stop has cut it off.
func (c *connection) perform(k kind, off, length int64) error {
	o := operation{kind: k, writer: c.number, first: off / SectorSize, count: length / SectorSize}
	if k == write {
		c.seq++
		o.value = valueOf(c.number, c.seq)
	}
	var broken []*operation
	for {
		if err := c.connect(); err != nil || c.line == nil {
			return err
		}
		buf := c.buf[:nbd.RequestSize+length]
		if k != read {
			encode(buf[nbd.RequestSize:], c.load.disk.tag, o.value, o.first)
		}
		o.server = c.line.server.Address
		attempt := c.load.disk.call(o)
		o.began = attempt.began
		err := c.line.request(c.load.cut, k, off, buf)
		var errno nbd.Errno
		switch {
		case err == nil:
			if k == read {
				attempt.find(buf[nbd.RequestSize:], c.load.disk.tag, o.first)
			}
			c.load.disk.answer(attempt, broken)
			c.load.answered(o.server, k)
			return nil
		case errors.As(err, &errno) && errno != nbd.ESHUTDOWN:
			return fmt.Errorf("%s refused %v of %d bytes at %d: %w", o.server, k, length, off, errno)
		case errors.Is(err, errProtocol):
			return fmt.Errorf("%s, asked for %v of %d bytes at %d: %w", o.server, k, length, off, err)
		case c.load.cut.Err() != nil:
			c.disconnect()
			return nil
		case !errors.Is(err, errGaveUp):
			broken = append(broken, attempt)
		}
		c.load.broke(c.number, c.line.server, err)
		c.disconnect()
	}
}

func (c *connection) disconnect() {
	c.line.hangUp(false)
	c.line = nil
}

// A server is looked for again after a while, at first a short one.
const (
	firstWait   = 2 * time.Millisecond
	longestWait = 50 * time.Millisecond
)

// connect looks for a server that lets this connection in. It has found none and
// returns no error when Stop has cut it off.
func (c *connection) connect() error {
	if c.line != nil {
		return nil
	}
	o := &c.load.options
	began := time.Now()
	for wait := firstWait; ; wait = min(2*wait, longestWait) {
		var last error
		for range o.Servers {
			s := o.Servers[c.turn%len(o.Servers)]
			l, err := connect(c.load.cut, *o, s, c.load.disk.Size())
			switch {
			case err == nil:
				c.line = l
				return nil
			case errors.Is(err, errUnfit):
				return fmt.Errorf("%s: %w", s.Address, err)
			}
			last = fmt.Errorf("%s: %w", s.Address, err)
			c.turn++
		}
		if c.load.cut.Err() != nil {
			return nil
		}
		if time.Since(began) > o.Patience {
			return fmt.Errorf("no server has let it in for %v; the last one: %w", o.Patience, last)
		}
		pause(wait, c.load.cut.Done())
	}
}
