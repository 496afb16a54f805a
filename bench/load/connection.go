// SPDX-License-Identifier: GPL-3.0-or-later

package load

import (
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// slot is one of the requests that may be in flight.
type slot struct {
	message []byte // the header and, where there are writes, room for payload
	cookie  uint64 // of the request in flight; 0 if there is none
	command nbd.Command
	offset  uint64
	got     uint32 // bytes of data received
	sent    time.Duration
}

// connection keeps requests in flight on one socket.
type connection struct {
	*socket
	agreement
	choose chooser
	slots  []slot
	serial uint64 // of the last request
	flying int    // requests without a reply

	outbox []unix.Iovec // what is still to be sent
	fresh  []int        // slots that have joined it since the last send
	inbox  inbox

	epoch   time.Time
	latency *Histogram // where replies are counted
}

// cookieSlot are the low bits of a cookie, which name the slot; the rest is the
// request's serial number, so that a reply that comes twice is noticed.
const cookieSlot = 16

func newConnection(s *socket, a agreement, w Workload, number int) *connection {
	stride := nbd.RequestSize
	if w.Reads < 100 {
		stride += w.Block
	}
	// The messages stand side by side, so that neighbours are sent as one piece.
	memory := make([]byte, stride*w.Depth)
	c := &connection{
		socket:    s,
		agreement: a,
		choose:    newChooser(w, a.size, number),
		slots:     make([]slot, w.Depth),
		outbox:    make([]unix.Iovec, 0, 2*w.Depth),
		fresh:     make([]int, 0, w.Depth),
		inbox:     newInbox(),
		epoch:     time.Now(),
		latency:   new(Histogram),
	}
	for i := range c.slots {
		c.slots[i].message = memory[i*stride : (i+1)*stride]
		if payload := c.slots[i].message[nbd.RequestSize:]; len(payload) > 0 {
			Fill(payload, 0)
		}
	}
	return c
}

// now is the time since the epoch; the monotonic clock alone is read.
func (c *connection) now() time.Duration { return time.Since(c.epoch) }

// run keeps the requests flowing for d, then waits for the replies to those in
// flight. It returns how many were answered until d was over, and when that was
// noticed.
func (c *connection) run(d time.Duration, seed uint64, check func([]byte, uint64) error) (inTime uint64, took time.Duration, err error) {
	c.choose.seed(seed)
	c.inbox.check = check
	begin := c.now()
	for i := range c.slots {
		c.issue(i)
	}
	var answered uint64
	for over := false; c.flying > 0; {
		if err := c.flush(); err != nil {
			return 0, 0, err
		}
		done, now, err := c.receive()
		if err != nil {
			return 0, 0, err
		}
		answered += uint64(len(done))
		if !over && len(done) > 0 {
			// The batch that ends the time counts, with its own time: so neither a
			// stall at the end nor long requests distort the rate.
			inTime, took = answered, now-begin
			over = took >= d
		}
		for _, i := range done {
			c.latency.Record(now-c.slots[i].sent, 1)
			if !over {
				c.issue(i)
			}
		}
	}
	return inTime, took, nil
}

// issue puts the next request into the slot, and the slot into the outbox.
func (c *connection) issue(i int) {
	s := &c.slots[i]
	c.serial++
	s.command, s.offset = c.choose.next()
	s.cookie = c.serial<<cookieSlot | uint64(i)
	s.got = 0
	block := uint32(c.choose.block)
	nbd.AppendRequest(s.message[:0], nbd.Request{Command: s.command, Cookie: s.cookie, Offset: s.offset, Length: block})
	message := s.message[:nbd.RequestSize]
	if s.command == nbd.CmdWrite {
		message = s.message
		restamp(message[nbd.RequestSize:], s.offset)
	}
	c.post(message)
	c.fresh = append(c.fresh, i)
	c.flying++
}

// post appends to the outbox, as one piece with what is already there if it is
// next to that in memory.
func (c *connection) post(message []byte) {
	first := unsafe.SliceData(message)
	if n := len(c.outbox); n > 0 {
		last := &c.outbox[n-1]
		if uintptr(unsafe.Pointer(last.Base))+uintptr(last.Len) == uintptr(unsafe.Pointer(first)) {
			last.Len += uint64(len(message))
			return
		}
	}
	c.outbox = append(c.outbox, unix.Iovec{Base: first, Len: uint64(len(message))})
}

// flush sends until the outbox is empty or there is something to receive: a server
// that waits until its replies are read does not read requests.
func (c *connection) flush() error {
	if len(c.fresh) > 0 {
		now := c.now()
		for _, i := range c.fresh {
			c.slots[i].sent = now
		}
		c.fresh = c.fresh[:0]
	}
	for len(c.outbox) > 0 {
		n, err := c.send(c.outbox)
		if err != nil {
			return err
		}
		c.drop(uint64(n))
		if len(c.outbox) == 0 {
			return nil
		}
		if readable, err := c.await(); err != nil || readable {
			return err
		}
	}
	return nil
}

// drop takes n bytes, which have been sent, out of the outbox.
func (c *connection) drop(n uint64) {
	sent := 0
	for sent < len(c.outbox) && n >= c.outbox[sent].Len {
		n -= c.outbox[sent].Len
		sent++
	}
	left := copy(c.outbox, c.outbox[sent:])
	c.outbox = c.outbox[:left]
	if n > 0 {
		c.outbox[0].Base = (*byte)(unsafe.Add(unsafe.Pointer(c.outbox[0].Base), n))
		c.outbox[0].Len -= n
	}
}

// answer finds the slot that a reply belongs to.
func (c *connection) answer(cookie uint64) (int, error) {
	i := cookie & (1<<cookieSlot - 1)
	if i >= uint64(len(c.slots)) || cookie == 0 || c.slots[i].cookie != cookie {
		return 0, fmt.Errorf("the server answers cookie %#x, which is not in flight", cookie)
	}
	return int(i), nil
}

// land ends the request in the slot.
func (c *connection) land(i int) error {
	s := &c.slots[i]
	if want := uint32(c.choose.block); s.command == nbd.CmdRead && s.got != want {
		return fmt.Errorf("the server answers a read of %d bytes with %d", want, s.got)
	}
	s.cookie = 0
	c.flying--
	return nil
}
