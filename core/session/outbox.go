// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flexnbd/flexnbd/sdk/wire"
)

// reply is one message to the client: a reply, or one chunk of it.
type reply struct {
	head    [headRoom]byte // the first headLen bytes are sent
	headLen int
	body    []byte        // sent behind the head
	payload *wire.Payload // goes back to the queue when body was sent
	stream  *stream       // sent behind the head, instead of body
	call    *call         // this message ends it
}

// headRoom is enough for every header and for all chunks of fixed length.
const headRoom = 40

// setHead starts a reply with what an nbd.Append function made.
func (r *reply) setHead(b []byte) { r.headLen = copy(r.head[:], b) }

// outbox holds the replies that wait for the writer. put never blocks: how many
// there can be is bounded by the requests in flight.
type outbox struct {
	mu     sync.Mutex
	queue  []reply
	closed bool
	wake   chan struct{} // holds one token while there is something to do
}

func newOutbox() *outbox { return &outbox{wake: make(chan struct{}, 1)} }

func (o *outbox) put(replies ...reply) {
	o.mu.Lock()
	o.queue = append(o.queue, replies...)
	o.mu.Unlock()
	o.signal()
}

// close lets take return what is left, then nothing.
func (o *outbox) close() {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
	o.signal()
}

func (o *outbox) signal() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// take waits for replies and swaps the queue for spare, which is empty. open is
// false when there will be no more.
func (o *outbox) take(spare []reply) (batch []reply, open bool) {
	for {
		o.mu.Lock()
		if len(o.queue) > 0 {
			batch, o.queue = o.queue, spare
			o.mu.Unlock()
			return batch, true
		}
		closed := o.closed
		o.mu.Unlock()
		if closed {
			return nil, false
		}
		<-o.wake
	}
}

// writer owns the socket's write side.
type writer struct {
	conn   net.Conn
	outbox *outbox
	sent   func(*reply) // called for each reply once, sent or not
	broken func(error)  // called once, when the socket does not take any more

	limited atomic.Bool // each write has a deadline
	buffers net.Buffers
	failed  bool
}

// writeBatch bounds how many buffers one system call gets.
const writeBatch = 256

// run sends replies until the outbox is closed and empty. After a failure it goes
// on taking replies, so that what they hold is freed.
func (w *writer) run() {
	var spare []reply
	for {
		batch, open := w.outbox.take(spare[:0])
		if !open {
			return
		}
		w.send(batch)
		for i := range batch {
			w.sent(&batch[i])
		}
		clear(batch)
		spare = batch
		if cap(spare) > 4*writeBatch { // do not keep what a burst needed
			spare = nil
		}
	}
}

// limit gives every write sendTimeout from now on, the one under way included.
// Any goroutine may call it.
func (w *writer) limit() {
	w.limited.Store(true)
	_ = w.conn.SetWriteDeadline(time.Now().Add(sendTimeout))
}

// send writes a batch with as few calls as it can.
func (w *writer) send(batch []reply) {
	buffers := w.buffers[:0]
	for i := range batch {
		r := &batch[i]
		if r.headLen > 0 {
			buffers = append(buffers, r.head[:r.headLen])
		}
		if len(r.body) > 0 {
			buffers = append(buffers, r.body)
		}
		if r.stream != nil {
			buffers = w.flush(buffers)
			if !r.stream.drain(w.write) {
				w.hangUp()
			}
		}
		if len(buffers) >= writeBatch {
			buffers = w.flush(buffers)
		}
	}
	w.buffers = w.flush(buffers)
}

// flush writes the buffers and returns the empty slice for reuse.
func (w *writer) flush(buffers net.Buffers) net.Buffers {
	if len(buffers) > 0 && !w.failed {
		out := buffers // WriteTo consumes its receiver
		w.renew()
		_, err := out.WriteTo(w.conn)
		w.check(err)
	}
	clear(buffers)
	return buffers[:0]
}

func (w *writer) write(b []byte) {
	if !w.failed {
		w.renew()
		_, err := w.conn.Write(b)
		w.check(err)
	}
}

// renew starts the time of one write.
func (w *writer) renew() {
	if w.limited.Load() {
		_ = w.conn.SetWriteDeadline(time.Now().Add(sendTimeout))
	}
}

// hangUp sends nothing more, not even what is queued: the client would take it
// for the data that it is still owed. Who cut the data short has told the reader.
func (w *writer) hangUp() {
	w.failed = true
	closeWrite(w.conn)
}

func (w *writer) check(err error) {
	if err != nil && !w.failed {
		w.failed = true
		w.broken(err)
	}
}
