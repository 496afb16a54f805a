// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/flexnbd/flexnbd/core/export"
	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// maxRequests bounds the requests of one connection that have not been answered.
// Linux's client has at most 128 in flight.
const maxRequests = 256

// transmission is the transmission phase of one connection.
type transmission struct {
	ctx    context.Context // ends when the connection is cut
	cut    context.CancelFunc
	conn   net.Conn
	in     *intake
	export *export.Export
	agreed *agreement
	link   *link
	log    hclog.Logger

	queue    wire.Queue
	batch    []*wire.Request // read, not yet submitted; the reader's own
	taken    int             // requests read since the last wait; the reader's own
	warned   bool            // of a loud refusal; the reader's own
	inFlight sync.WaitGroup  // requests submitted whose sink has not returned
	outbox   *outbox

	underway underway       // the requests that are not answered
	slots    chan struct{}  // one token for each of them
	tasks    sync.WaitGroup // goroutines that work on one request each
	streams  chan struct{}  // holds the token of the one streamed read
	statuses chan struct{}  // holds a token for each BLOCK_STATUS that is looked up
	caches   chan struct{}  // holds the token of the one CACHE

	received atomic.Bool  // no further request is read
	stopping atomic.Bool  // the server shuts down
	active   atomic.Int64 // requests that the end of a stopping server waits for
	stop     <-chan struct{}
	moved    <-chan struct{}
	fatal    atomic.Pointer[error] // why the connection has to end
}

// newTransmission makes the phase that follows a handshake, which has read ahead
// bytes of it.
func newTransmission(ctx context.Context, conn net.Conn, ahead []byte, config Config, agreed *agreement, l *link) *transmission {
	socket := newSocket(conn)
	t := &transmission{
		conn:     conn,
		in:       newIntake(socket, ahead),
		export:   config.Export,
		agreed:   agreed,
		link:     l,
		log:      config.Log,
		underway: underway{limit: config.RequestTimeout},
		slots:    make(chan struct{}, maxRequests),
		streams:  make(chan struct{}, 1),
		statuses: make(chan struct{}, maxStatuses),
		caches:   make(chan struct{}, 1),
		stop:     config.Stopping,
		moved:    config.Moved,
	}
	t.outbox = newOutbox(socket, t.sent, t.fail)
	t.ctx, t.cut = context.WithCancel(ctx)
	t.queue = t.export.NewQueue(t.ctx, t.sink)
	return t
}

// run is the whole phase. When it returns, every request has been carried out,
// every reply that the client would take has been sent, and nothing runs any
// more. The queue outlives the last reply, which may be sent out of its memory.
func (t *transmission) run() error {
	defer t.cut()
	var writers sync.WaitGroup
	writers.Go(t.outbox.write)
	done := make(chan struct{})
	var watchers sync.WaitGroup
	watchers.Go(func() { t.watchStop(done) })
	if t.underway.limit > 0 {
		watchers.Go(func() { t.watchOverdue(done) })
	}

	err := t.receive()

	t.received.Store(true)
	t.outbox.limit()
	t.submit()
	t.tasks.Wait()
	t.inFlight.Wait()
	t.outbox.close()
	writers.Wait()
	close(done)
	watchers.Wait()
	return errors.Join(t.reason(err), t.queue.Close())
}

// reason is why the phase ended: what failed first, not what failed because of
// it.
func (t *transmission) reason(received error) error {
	if fatal := t.fatal.Load(); fatal != nil {
		return *fatal
	}
	if t.stopping.Load() && errors.Is(received, os.ErrDeadlineExceeded) {
		return nil // watchStop woke the reader
	}
	return unlessGone(received)
}

// fail ends the connection: the reader is woken and finds nothing more to read.
func (t *transmission) fail(err error) {
	t.fatal.CompareAndSwap(nil, &err)
	t.wakeReader()
}

func (t *transmission) wakeReader() { _ = t.conn.SetReadDeadline(time.Unix(1, 0)) }

// watchStop waits for the server to stop, for the disk to move away, or for done.
func (t *transmission) watchStop(done <-chan struct{}) {
	select {
	case <-done:
		return
	case <-t.moved:
	case <-t.stop:
		t.stopping.Store(true)
		t.leaveIfIdle()
		select {
		case <-done:
			return
		case <-t.moved: // requests that wait at the gate will not be answered
		}
	}
	t.fail(export.ErrMovedAway)
	t.outbox.limit() // the reader itself may be waiting for the client to take replies
}

// leaveIfIdle ends the phase of a stopping server once the requests that were
// accepted before have been answered. A request counts in active before it looks
// at stopping, so that it is either refused or waited for.
func (t *transmission) leaveIfIdle() {
	if t.stopping.Load() && t.active.Load() == 0 {
		t.wakeReader()
	}
}

// receive reads requests until the client leaves or the connection breaks. It is
// the only one who reads from the socket.
func (t *transmission) receive() error {
	for t.fatal.Load() == nil {
		r, err := t.nextRequest()
		switch {
		case errors.Is(err, nbd.ErrMagic):
			if t.takeSlot() == nil { // it may understand an answer
				t.refuse(newCall(t, r), &refusal{errno: nbd.EINVAL, why: "the request has a wrong magic number"})
			}
			return err
		case err != nil:
			return err
		case r.Command == nbd.CmdDisc:
			t.link.bye = true
			return nil
		}
		c := newCall(t, r)
		if err := t.takeSlot(); err != nil {
			return err
		}
		if err := t.handle(c); err != nil {
			return err
		}
	}
	return nil
}

// nextRequest returns the next header. What was read before is submitted first
// if there is none to be had without waiting.
func (t *transmission) nextRequest() (nbd.Request, error) {
	soon := false
	if t.in.buffered() < nbd.RequestSize {
		t.submit()
		// A client that had one request in flight has its reply now.
		soon, t.taken = t.taken == 1 && len(t.slots) == 0, 0
	}
	b, err := t.in.next(soon)
	if err != nil {
		if errors.Is(err, io.EOF) && len(b) > 0 {
			err = fmt.Errorf("the client left in the middle of a request: %w", io.ErrUnexpectedEOF)
		}
		return nbd.Request{}, err
	}
	r, err := nbd.DecodeRequest(b)
	t.in.skip(nbd.RequestSize)
	t.taken++
	return r, err
}

// takeSlot waits until there are fewer than maxRequests to be answered.
func (t *transmission) takeSlot() error {
	select {
	case t.slots <- struct{}{}:
		return nil
	default:
	}
	t.submit()
	select {
	case t.slots <- struct{}{}:
		return nil
	case <-t.ctx.Done():
		return t.ctx.Err()
	}
}

// handle carries a request out, or refuses it. An error ends the connection.
func (t *transmission) handle(c *call) error {
	t.active.Add(1)
	bad := t.validate(c.request)
	if bad == nil && t.stopping.Load() {
		if isClosed(t.moved) {
			return export.ErrMovedAway // no answer, not even that the server stops
		}
		bad = &refusal{errno: nbd.ESHUTDOWN, why: "the server shuts down"}
	}
	if bad != nil {
		defer t.settled()
		if c.request.Command == nbd.CmdWrite { // no other command has a payload
			if err := t.discard(int64(c.request.Length)); err != nil {
				return err
			}
		}
		t.refuse(c, bad)
		return nil
	}
	c.accepted = true
	if do := t.migrationCommand(c.request); do != nil {
		t.task(func() { c.carryOut(do) })
		return nil
	}
	if c.request.Length == 0 && c.request.Command != nbd.CmdFlush {
		c.finish()
		return nil
	}
	switch c.request.Command {
	case nbd.CmdRead:
		return t.read(c)
	case nbd.CmdWrite:
		return t.write(c)
	case nbd.CmdFlush:
		t.batch = append(t.batch, &c.add(wire.OpFlush, 0, 0, nil).request)
		c.finish()
	case nbd.CmdTrim, nbd.CmdWriteZeroes:
		t.zero(c)
	case nbd.CmdCache:
		t.task(func() { t.cache(c) })
	case nbd.CmdBlockStatus:
		t.task(func() { t.blockStatus(c) })
	default:
		panic("session: a command that was not validated: " + c.request.Command.String())
	}
	return nil
}

// refuse answers a request that is not carried out. The reader calls it.
func (t *transmission) refuse(c *call, bad *refusal) {
	level := hclog.Info
	if bad.loud && !t.warned {
		level, t.warned = hclog.Warn, true
	}
	t.log.Log(level, "request refused", "command", c.request.Command, "offset", c.request.Offset, "length", c.request.Length, "errno", bad.errno, "why", bad.why)
	t.outbox.put(c.errorReply(bad.errno, bad.why))
}

// midway makes the error of a connection that ended inside a payload.
// It returns nil for nil.
func midway(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("the client left in the middle of a write's payload: %w", io.ErrUnexpectedEOF)
	}
	return err
}

// submit hands the batch to the queue, and sees to it that what was answered
// without the queue is sent.
func (t *transmission) submit() {
	if len(t.batch) > 0 {
		t.start(t.batch)
		clear(t.batch)
		t.batch = t.batch[:0]
	}
	t.outbox.push()
}

// task runs what works on one request for longer, and sees to it that the answer is
// sent.
func (t *transmission) task(do func()) {
	t.tasks.Go(func() {
		do()
		t.outbox.push()
	})
}

// start submits requests. Any goroutine may.
func (t *transmission) start(requests []*wire.Request) {
	t.inFlight.Add(len(requests))
	t.queue.Submit(requests)
}

// borrow returns payload memory. The batch goes out before it waits, since the
// memory it holds may be what is waited for.
func (t *transmission) borrow(n int) (*wire.Payload, error) {
	if p := t.queue.TryBorrow(n); p != nil {
		return p, nil
	}
	t.submit()
	return t.queue.Borrow(t.ctx, n)
}

// sink receives what the queue has completed. It must not block.
func (t *transmission) sink(done []*wire.Request) {
	for _, r := range done {
		r.Owner.(owner).completed()
	}
	t.outbox.push()
	t.inFlight.Add(-len(done))
}

// owner is the Owner of every request that a session submits.
type owner interface{ completed() }

// sent is called by the outbox for every reply once it has been sent, or could
// not be.
func (t *transmission) sent(r *reply) {
	if r.payload != nil {
		t.queue.Return(r.payload)
	}
	if r.call == nil {
		return
	}
	t.underway.remove(r.call)
	accepted := r.call.accepted
	r.call.free()
	if accepted {
		t.settled()
	}
	<-t.slots
}

// settled says that a stopping server need not wait for a request any more.
func (t *transmission) settled() {
	t.active.Add(-1)
	t.leaveIfIdle()
}
