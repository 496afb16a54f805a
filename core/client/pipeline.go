// SPDX-License-Identifier: GPL-3.0-or-later

package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// Call is one request of a [Pipeline]. It belongs to the pipeline from Send until
// Done is called; then it may be sent again, also by Done itself.
type Call struct {
	// Request is what is asked: command, flags, offset and length. The cookie is
	// the pipeline's own.
	Request nbd.Request

	// Payload is the data of a WRITE, as long as the request says, and nil
	// otherwise. It must not change before Done is called.
	Payload []byte

	// Done is called once, with nil, with the server's [nbd.Errno], with a
	// [*RequestError] when the request may not be sent, or with why the
	// connection broke; then the request may have been carried out or not. It
	// must be quick and must not call Disconnect or Close, which wait for it.
	// It may call Send.
	Done func(error)

	// Owner is the caller's; the pipeline leaves it alone.
	Owner any

	next  *Call // in the queue, or among those to be told
	state callState
	errno nbd.Errno // the server's verdict, from when its reply has come
}

// callState is where a call is. Guarded by the pipeline's mutex.
//
//	idle -> queued -> sending -> sent -> idle
//	                          -> replied -> idle
//	                          -> cut -> idle
//
// replied: the server has answered before the sender knew that everything was
// sent. The payload may still be in use, so Done has to wait for the sender. cut: the
// sender has given up before everything was sent, and nobody waits for it any more.
type callState uint8

const (
	callIdle callState = iota
	callQueued
	callSending
	callSent
	callReplied
	callCut
)

// PipelineOptions are what can be set of a [Pipeline].
type PipelineOptions struct {
	// ReplyTimeout is how long the server may say nothing while calls wait for
	// it, before the connection is cut. 0 means 10 seconds.
	ReplyTimeout time.Duration
	// FlushTimeout is that while a FLUSH, PREPARE or ENTRUST is among the calls: to
	// make durable what has piled up in memory takes a slow disk long. 0 means 10
	// minutes.
	FlushTimeout time.Duration
}

const (
	defaultReplyTimeout = 10 * time.Second
	defaultFlushTimeout = 10 * time.Minute
)

// Why a pipeline takes no more calls, where nothing has failed.
var (
	errPipelineClosed = errors.New("the pipeline has been closed")
	errPipelined      = errors.New("a pipeline has taken the connection over")
)

// Pipeline keeps many requests in flight on one connection. Two goroutines belong
// to it: one sends what has been queued, many requests with one system call, the
// other receives the replies and calls Done. Both end when the connection breaks
// or the pipeline is ended, and Disconnect or Close has to be called in the end to
// wait for them.
//
// How many requests and bytes are in flight is the caller's to bound. All methods
// may be called by any goroutine.
type Pipeline struct {
	client *Client
	conn   net.Conn

	timeout, flushTimeout time.Duration

	broken chan struct{} // closed when err is set
	idle   chan struct{} // closed when nothing is in flight after Disconnect
	ended  chan struct{} // closed when both goroutines are gone and every call is told

	mu       sync.Mutex
	work     sync.Cond // of mu: the queue, the table's room or err has changed
	queue    callList  // not yet sent
	table    table     // sent, or being sent
	doubted  callList  // those of which half was sent, and that the server calls done
	pending  int       // queued, sending, sent or replied
	flushes  int       // those of them that flush
	deadline time.Time // of reading; zero: none
	leaving  bool      // Disconnect has been called
	quiet    bool      // idle is closed
	running  int       // goroutines
	err      error     // why no call is taken any more
}

// Pipeline takes the connection over: the client's other methods fail from now on,
// but for those that tell what was negotiated, and Close, which breaks the pipeline.
// On TCP sockets it sets TCP_NODELAY, keepalive and TCP_USER_TIMEOUT, so that a peer
// that has silently gone is noticed within 10 seconds.
func (c *Client) Pipeline(o PipelineOptions) *Pipeline {
	p := &Pipeline{
		client: c,
		conn:   c.conn,
		broken: make(chan struct{}),
		idle:   make(chan struct{}),
		ended:  make(chan struct{}),

		timeout:      o.ReplyTimeout,
		flushTimeout: o.FlushTimeout,
	}
	if p.timeout <= 0 {
		p.timeout = defaultReplyTimeout
	}
	if p.flushTimeout <= 0 {
		p.flushTimeout = defaultFlushTimeout
	}
	p.work.L = &p.mu
	if c.broken != nil {
		p.err = fmt.Errorf("the connection is no longer usable: %w", c.broken)
		close(p.broken)
		close(p.ended)
		return p
	}
	c.broken = errPipelined
	tune(c.conn)
	p.running = 2
	go p.send()
	go p.receive()
	return p
}

// Send queues calls and returns; it never waits for the network. Done of a call
// that may not be sent, or that comes when the connection is broken, is called
// before Send returns, so the caller must hold no lock that Done takes.
//
// Requests are sent in the order in which they were given, and may be carried out
// and answered in any. WRITE, WRITE_ZEROES, TRIM and FLUSH are allowed where the
// server offers them; PREPARE and COMMIT where it has accepted the option for them;
// ENTRUST towards an oldstyle server. There is no READ. A request for no bytes
// succeeds without being sent.
func (p *Pipeline) Send(calls ...*Call) {
	var refused callList
	p.mu.Lock()
	why := p.err
	if why == nil && p.leaving {
		why = errDisconnected
	}
	for _, c := range calls {
		if c.state != callIdle {
			p.mu.Unlock()
			panic("client: a call was sent again before its Done")
		}
		if why != nil || isEmpty(c.Request) || p.check(c) != nil {
			refused.push(c)
		} else {
			p.enqueue(c)
		}
	}
	p.work.Signal()
	p.mu.Unlock()

	for c := refused.pop(); c != nil; c = refused.pop() {
		switch {
		case why != nil:
			c.Done(why)
		case isEmpty(c.Request):
			c.Done(nil) // what a server does with no bytes is not defined
		default:
			c.Done(p.check(c))
		}
	}
}

// enqueue takes a call in. mu is held.
func (p *Pipeline) enqueue(c *Call) {
	flush := flushes(c.Request)
	if flush {
		p.flushes++
	}
	if p.pending == 0 || flush {
		p.expect()
	}
	c.state = callQueued
	p.queue.push(c)
	p.pending++
}

// flushes says whether a request makes the server's disk durable.
func flushes(r nbd.Request) bool {
	return r.Command == nbd.CmdFlush || r.Command == nbd.CmdPrepare || nbd.IsEntrust(nbd.Request{Flags: r.Flags, Command: r.Command, Offset: r.Offset, Length: r.Length})
}

// Broken is closed when no further call can succeed: the connection broke, or the
// pipeline has been ended. Calls may still be told then.
func (p *Pipeline) Broken() <-chan struct{} { return p.broken }

// Err returns why the pipeline is broken, nil while it is not.
func (p *Pipeline) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Disconnect takes no more calls, waits until every call is told, says goodbye and
// closes the connection. When ctx ends first, the connection is cut. The error is
// why there was no orderly end, also when the connection broke before. Nothing of
// the pipeline runs any more when it returns.
func (p *Pipeline) Disconnect(ctx context.Context) error {
	p.leave()
	select {
	case <-p.idle:
		err := p.goodbye()
		<-p.ended
		return p.farewell(err)
	case <-p.broken:
	case <-ctx.Done():
		p.fail(fmt.Errorf("waiting for the last replies: %w", context.Cause(ctx)))
	}
	<-p.ended
	return p.farewell(p.Err())
}

// goodbye sends a DISC, unless the pipeline is broken, and closes the connection.
func (p *Pipeline) goodbye() error {
	p.mu.Lock()
	first := p.setErr(errDisconnected)
	err := p.err
	p.mu.Unlock()
	if !first {
		return err
	}
	_ = p.conn.SetWriteDeadline(time.Now().Add(goodbyeTimeout))
	_, err = p.conn.Write(nbd.AppendRequest(nil, nbd.Request{Command: nbd.CmdDisc}))
	_ = p.conn.Close()
	if err != nil {
		return fmt.Errorf("saying goodbye: %w", err)
	}
	return nil
}

// leave refuses further calls.
func (p *Pipeline) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.leaving {
		p.leaving = true
		p.checkIdle()
	}
}

func (p *Pipeline) farewell(err error) error {
	if err == nil || errors.Is(err, errDisconnected) {
		return nil
	}
	return fmt.Errorf("disconnecting from export %q: %w", p.client.export, err)
}

// Close cuts the connection and waits until every call is told and nothing of the
// pipeline runs any more. The error is always nil.
func (p *Pipeline) Close() error {
	p.fail(errPipelineClosed)
	<-p.ended
	return nil
}

// fail breaks the pipeline. The first reason stays.
func (p *Pipeline) fail(why error) {
	p.mu.Lock()
	p.setErr(why)
	p.mu.Unlock()
	_ = p.conn.Close()
}

// setErr notes why the pipeline is broken and wakes the sender, and reports whether
// it was not broken before. mu is held.
func (p *Pipeline) setErr(why error) (first bool) {
	if p.err != nil {
		return false
	}
	p.err = why
	close(p.broken)
	p.work.Signal()
	return true
}

// checkIdle tells Disconnect when nothing is pending any more. mu is held.
func (p *Pipeline) checkIdle() {
	if p.leaving && p.pending == 0 && !p.quiet {
		p.quiet = true
		close(p.idle)
	}
}

// exit is called at the end of both goroutines. The last one tells the calls that
// are left: nobody reads their payloads any more.
func (p *Pipeline) exit() {
	p.mu.Lock()
	p.running--
	if p.running > 0 {
		p.mu.Unlock()
		return
	}
	left := p.table.takeAll()
	for _, more := range []*callList{&p.queue, &p.doubted} {
		for c := more.pop(); c != nil; c = more.pop() {
			left.push(c)
		}
	}
	for c := left.head; c != nil; c = c.next {
		c.state = callIdle
	}
	why := p.err
	p.mu.Unlock()

	for c := left.pop(); c != nil; c = left.pop() {
		c.Done(why)
	}
	close(p.ended)
}
