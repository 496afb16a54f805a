// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"errors"
	"fmt"

	"github.com/flexnbd/flexnbd/core/export"
	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// stream is a long READ whose reply has to be one run of bytes: a simple reply,
// or a structured one that must not be fragmented (DF). A goroutine of its own
// reads piece after piece, one ahead of the writer, which sends nothing else
// meanwhile.
//
// It holds its two payloads before the reply begins and borrows no more: the
// replies that queue up behind it may hold the rest of the connection's budget
// until it is done.
type stream struct {
	ready chan []byte   // pieces to send, in order; closed by the reading side
	sent  chan struct{} // one token for each piece that the writer is done with
	short bool          // less was sent than was announced; set before ready is closed
}

// streamDepth is how many payloads a stream reads into in turn.
const streamDepth = 2

// drain is the writer's side: it sends what comes until the stream ends. write
// does nothing once the socket has failed, so that the reading side goes on.
// whole is false when the client still waits for data, so that it would take
// whatever is sent next for that.
func (s *stream) drain(write func([]byte)) (whole bool) {
	for b := range s.ready {
		write(b)
		s.sent <- struct{}{}
	}
	return !s.short
}

// send hands one piece over and waits until the writer is done with it.
func (s *stream) send(b []byte) {
	s.ready <- b
	<-s.sent
}

// stream carries a call out. There is one at a time on a connection.
func (t *transmission) stream(c *call) {
	t.streams <- struct{}{}
	defer func() { <-t.streams }()

	a := &readAhead{t: t, offset: int64(c.request.Offset), length: int64(c.request.Length)}
	for i := range a.data {
		p, err := t.queue.Borrow(t.ctx, wire.MaxPayload)
		if err != nil {
			c.fail(err)
			c.finish()
			return
		}
		defer t.queue.Return(p)
		a.data[i] = p
	}
	defer a.settle()
	a.start()
	a.start()
	first, err := a.next()
	if err != nil { // nothing was said yet: a plain error will do
		c.fail(err)
		c.finish()
		return
	}
	s := &stream{ready: make(chan []byte, streamDepth), sent: make(chan struct{}, streamDepth)}
	t.outbox.put(c.streamHead(s))
	t.outbox.push()
	err = s.feed(a, first, t.agreed.structured)
	close(s.ready)
	t.outbox.put(c.streamEnd(s, err))
}

// feed hands the pieces to the writer, each payload being read into again once
// it was sent. It returns when all of it is sent. After a failure a structured
// reply is padded to its announced length. A simple one stops short, since it has
// announced success, and so does every stream on a connection that has to end.
func (s *stream) feed(a *readAhead, b []byte, pad bool) error {
	for {
		s.send(b)
		if a.taken == a.length {
			return nil
		}
		if a.t.fatal.Load() != nil {
			s.short = true
			return nil
		}
		a.start()
		var err error
		if b, err = a.next(); err == nil {
			continue
		}
		if pad && !errors.Is(err, export.ErrMovedAway) {
			s.pad(int64(len(b)) + a.length - a.taken)
		} else {
			s.short = true
		}
		return err
	}
}

// pad sends n zeroes.
func (s *stream) pad(n int64) {
	for n > 0 {
		b := zeroes[:min(n, wire.MaxPayload)]
		s.send(b)
		n -= int64(len(b))
	}
}

// streamHead begins the reply.
func (c *call) streamHead(s *stream) reply {
	r := reply{stream: s}
	if c.t.agreed.structured {
		r.setHead(nbd.AppendOffsetData(r.head[:0], 0, c.request.Cookie, c.request.Offset, c.request.Length))
	} else {
		r.setHead(nbd.AppendSimpleReply(r.head[:0], 0, c.request.Cookie))
	}
	return r
}

// streamEnd ends the reply behind the data. One that stopped short can't be
// ended: the connection has to go.
func (c *call) streamEnd(s *stream, err error) reply {
	switch {
	case s.short && err != nil:
		c.t.fail(fmt.Errorf("READ failed after its reply had begun: %w", err))
		return reply{call: c}
	case s.short:
		return reply{call: c} // the connection ends already
	case err != nil:
		return c.failed(err)
	}
	r := reply{call: c}
	if c.t.agreed.structured {
		r.setHead(nbd.AppendNoneChunk(r.head[:0], c.request.Cookie))
	}
	return r
}

// readAhead reads a range piece by piece into its payloads in turn.
type readAhead struct {
	t      *transmission
	data   [streamDepth]*wire.Payload
	reads  [streamDepth]*waiter // under way, or nil
	offset int64                // of the whole range
	length int64
	begun  int64 // bytes whose read was started
	taken  int64 // bytes that next returned
}

// slot says which payload the piece that begins at done belongs to.
func slot(done int64) int { return int(done / wire.MaxPayload % streamDepth) }

// start starts the next piece's read, if there is one. Its payload must be free.
func (a *readAhead) start() {
	n := min(a.length-a.begun, wire.MaxPayload)
	if n == 0 {
		return
	}
	data := a.data[slot(a.begun)]
	data.Bytes = data.Bytes[:n]
	w := newWaiter(wire.Request{Op: wire.OpRead, Offset: a.offset + a.begun, Length: n, Data: data})
	a.reads[slot(a.begun)] = w
	a.begun += n
	a.t.start([]*wire.Request{&w.request})
}

// next waits for the next piece in order and returns its bytes. After an error
// they are zeroes, for padding.
func (a *readAhead) next() ([]byte, error) {
	i := slot(a.taken)
	w := a.reads[i]
	a.reads[i] = nil
	err := w.wait()
	a.taken += w.request.Length
	if err != nil || w.request.Zero {
		return zeroes[:w.request.Length], err
	}
	return w.request.Data.Bytes, nil
}

// settle waits for the reads that next was not asked for.
func (a *readAhead) settle() {
	for _, w := range a.reads {
		if w != nil {
			_ = w.wait()
		}
	}
}
