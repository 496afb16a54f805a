// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// outbox sends the replies, many with one system call. put never blocks; how many
// replies there can be is bounded by the requests in flight.
//
// Whoever has put replies pushes: unless somebody is sending already, it sends
// what is there, its own and others', for as long as that means no waiting. When
// the socket is full it leaves the rest to the writer, the one goroutine that may
// wait for the client. So as long as a client keeps up, no reply changes hands.
//
//	        push                      socket full, or a stream
//	idle ----------> somebody sends --------------------------> the writer sends
//	 ^                  | nothing left                             | nothing left
//	 +------------------+------------------------------------------+
//
// A reply may hold a lent descriptor, which a plugin may want back. So the writer
// waits for a client no longer than lendTime with such replies at hand; then it
// reads their bytes into the memory that they have for the case.
type outbox struct {
	socket *socket
	sent   func(*reply)  // called for each reply once, sent or not
	broken func(error)   // called once, when the socket does not take any more
	handed chan struct{} // holds a token when the writer is to go on

	limited atomic.Bool  // each wait has a deadline
	waiting atomic.Bool  // the writer sends, so it may be waiting
	lending atomic.Int64 // replies with a lent descriptor
	timed   atomic.Bool  // the socket has lendTime as its limit

	mu    sync.Mutex
	queue []reply // nobody sends them yet
	busy  bool    // somebody sends

	// The rest is for whoever sends.

	batch   []reply // from at on to be sent
	at      int
	offset  int64 // bytes of batch[at] that were sent
	vectors []unix.Iovec
	failed  bool
}

const (
	// maxVectors bounds how many buffers one system call gets. The kernel's
	// own limit is 1024.
	maxVectors = 256
	// maxKept is how long a batch may be whose memory is kept.
	maxKept = 1024
	// lendTime is how long a client may keep the server from sending what it
	// holds a lent descriptor for.
	lendTime = time.Second
)

func newOutbox(s *socket, sent func(*reply), broken func(error)) *outbox {
	return &outbox{socket: s, sent: sent, broken: broken, handed: make(chan struct{}, 1)}
}

// put adds a reply. A push has to follow.
func (o *outbox) put(r reply) {
	if r.lent != nil && o.lending.Add(1) == 1 && o.waiting.Load() {
		o.limitLent()
	}
	o.mu.Lock()
	o.queue = append(o.queue, r)
	o.mu.Unlock()
}

// push sends what is there as far as that means no waiting.
func (o *outbox) push() {
	if o.begin() && !o.send(false) {
		o.handed <- struct{}{} // has room: nobody else is busy
	}
}

// begin makes the caller the one who sends, if there is anything to.
func (o *outbox) begin() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.busy || len(o.queue) == 0 {
		return false
	}
	o.busy = true
	return true
}

// refill takes what is there. If that is nothing, the caller no longer is the one
// who sends.
func (o *outbox) refill() bool {
	clear(o.batch)
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.queue) == 0 {
		o.busy = false
		o.waiting.Store(false)
		return false
	}
	spare := o.batch[:0]
	if cap(spare) > maxKept { // do not keep what a burst needed
		spare = nil
	}
	o.batch, o.queue, o.at = o.queue, spare, 0
	return true
}

// write is the writer: it sends what was left to it, until close. After a failure
// it goes on taking replies, so that what they hold is freed.
func (o *outbox) write() {
	for range o.handed {
		o.waiting.Store(true)
		o.send(true)
	}
}

// close ends the writer once it has sent everything. There must be no put and no
// push from now on.
func (o *outbox) close() { close(o.handed) }

// limit gives every wait sendTimeout from now on, the one under way included. Any
// goroutine may call it.
func (o *outbox) limit() {
	o.limited.Store(true)
	o.socket.limitWrites(sendTimeout)
}

// send sends until nothing is left, and then returns true and is not busy any
// more. It returns false if it would have to wait and must not.
func (o *outbox) send(wait bool) bool {
	for {
		if o.at == len(o.batch) && !o.refill() {
			return true
		}
		if !o.step(wait) {
			return false
		}
	}
}

// step gets one step further: it sends some bytes, or ends the first reply.
func (o *outbox) step(wait bool) bool {
	r := &o.batch[o.at]
	switch {
	case !o.failed && o.offset < r.inMemory():
		return o.sendMemory(wait)
	case !o.failed && o.offset < r.length():
		return o.sendLent(r, wait)
	case r.stream != nil && !wait:
		return false
	case r.stream != nil && !r.stream.drain(o.writeAll):
		o.hangUp()
	}
	o.end()
	return true
}

// end takes the first reply off the batch.
func (o *outbox) end() {
	r := &o.batch[o.at]
	if r.lent != nil {
		r.lent.Leave()
		o.lending.Add(-1)
	}
	o.sent(r)
	*r = reply{}
	o.at++
	o.offset = 0
}

// sendMemory sends heads and bodies, of as many replies as it can.
func (o *outbox) sendMemory(wait bool) bool {
	more := o.gather()
	o.renew(wait)
	n, err := o.socket.send(o.vectors, more, wait)
	clear(o.vectors)
	o.advance(int64(n))
	switch {
	case errors.Is(err, errWouldWait):
		return false
	case o.waitedLong(err):
		o.unlend()
	default:
		o.check(err)
	}
	return true
}

// gather makes vectors of what lies in memory, up to the first reply that goes on
// with something else. more says whether that is a descriptor.
func (o *outbox) gather() (more bool) {
	o.vectors = o.vectors[:0]
	skip := o.offset
	for i := o.at; i < len(o.batch) && len(o.vectors) < maxVectors; i++ {
		r := &o.batch[i]
		skip = o.add(r.head[:r.headLen], skip)
		skip = o.add(r.body, skip)
		if r.stream != nil || r.lent != nil {
			return r.lent != nil
		}
	}
	return false
}

// add adds b without its first skip bytes, and returns how many are still to be
// skipped.
func (o *outbox) add(b []byte, skip int64) int64 {
	n := min(skip, int64(len(b)))
	if b = b[n:]; len(b) > 0 {
		o.vectors = append(o.vectors, vector(b))
	}
	return skip - n
}

// advance notes that n bytes were sent and ends the replies that are complete.
func (o *outbox) advance(n int64) {
	for n > 0 {
		r := &o.batch[o.at]
		left := r.length() - o.offset
		if n < left || r.stream != nil {
			o.offset += n
			return
		}
		n -= left
		o.end()
	}
}

// sendLent sends bytes from a lent descriptor. What can't be sent so is read into
// memory.
func (o *outbox) sendLent(r *reply, wait bool) bool {
	done := o.offset - r.inMemory()
	o.renew(wait)
	n, err := o.socket.sendFile(r.lent.FD(), r.from+done, int(r.lentLength-done), wait)
	o.advance(int64(n))
	switch {
	case n > 0:
	case errors.Is(err, errWouldWait):
		return false
	case o.waitedLong(err):
		o.unlend()
	case errors.Is(err, net.ErrClosed):
		o.check(err)
	default:
		o.read(r)
	}
	return true
}

// waitedLong says whether a wait has ended because of lendTime.
func (o *outbox) waitedLong(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) && o.lending.Load() > 0
}

// unlend leaves every lent descriptor that replies hold.
func (o *outbox) unlend() {
	o.mu.Lock()
	o.batch = append(o.batch, o.queue...)
	clear(o.queue)
	o.queue = o.queue[:0]
	o.mu.Unlock()
	for i := o.at; i < len(o.batch); i++ {
		if r := &o.batch[i]; r.lent != nil && !o.failed {
			o.read(r)
		}
	}
}

// read puts into a reply's memory what was to be sent from a lent descriptor. If
// that fails, it is too late for an error: the reply's head has announced success.
func (o *outbox) read(r *reply) {
	err := r.read()
	o.lending.Add(-1)
	if err != nil {
		o.check(fmt.Errorf("READ failed after its reply had begun: %w", err))
		o.hangUp()
	}
}

// writeAll sends a stream's piece. It does nothing once the socket has failed, so
// that the stream goes on.
func (o *outbox) writeAll(b []byte) {
	for len(b) > 0 && !o.failed {
		o.renew(true)
		n, err := o.socket.Write(b)
		b = b[n:]
		if o.waitedLong(err) {
			o.unlend()
		} else {
			o.check(err)
		}
	}
}

// renew sets the limit for what is about to be sent. A limit that has passed would
// also fail what does not wait.
func (o *outbox) renew(wait bool) {
	switch {
	case wait && o.lending.Load() > 0:
		o.limitLent()
	case o.limited.Load():
		o.socket.limitWrites(sendTimeout)
	case o.timed.Swap(false):
		o.socket.limitWrites(0)
		if wait && o.lending.Load() > 0 { // put saw it first
			o.limitLent()
		}
	}
}

// limitLent limits the wait that is under way, or comes next, to lendTime.
func (o *outbox) limitLent() {
	o.timed.Store(true)
	o.socket.limitWrites(lendTime)
}

// hangUp sends nothing more, not even what is queued: the client would take it
// for the data that it is still owed. Who cut the data short has told the reader.
func (o *outbox) hangUp() {
	o.failed = true
	closeWrite(o.socket.Conn)
}

func (o *outbox) check(err error) {
	if err != nil && !o.failed {
		o.failed = true
		o.broken(err)
	}
}
