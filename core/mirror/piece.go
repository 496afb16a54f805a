// SPDX-License-Identifier: GPL-3.0-or-later

package mirror

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/flexnbd/flexnbd/core/client"
	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/sdk/rangelock"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// piece is one share of the window: a range that is being copied. It is used again
// and again, and so are its calls; a copy takes no memory but its payload.
type piece struct {
	copier *copier
	reader wire.Queue
	line   *client.Pipeline

	off, length int64
	began       time.Time
	took        time.Duration // until the last reply; 0: there was none
	charged     bool          // its length was taken off the cap
	claim       *rangelock.Claim
	request     wire.Request

	segments []segment
	calls    []client.Call
	batch    []*client.Call
	left     atomic.Int32 // calls that have not been answered
	bytes    int64        // of payload that was sent
	answered func(error)  // reply
}

// read submits the piece's range. The memory is there without waiting, see
// numReaders.
func (p *piece) read(ctx context.Context) error {
	payload, err := p.reader.Borrow(ctx, int(p.length))
	if err != nil {
		p.abandon()
		return context.Cause(ctx)
	}
	p.request = wire.Request{Op: wire.OpRead, Offset: p.off, Length: p.length, Data: payload, Owner: p}
	one := [1]*wire.Request{&p.request}
	p.reader.Submit(one[:])
	return nil
}

// send sends what was read. It runs in the reader's sink, and waits for nothing.
func (p *piece) send() {
	t := p.copier.t
	payload := p.request.Data
	switch {
	case p.request.Err != nil:
		t.fail(local("reading", p.off, p.length, p.request.Err))
		p.finish()
		return
	case p.request.Zero && t.remote.canZero():
		p.segments = append(p.segments[:0], segment{0, len(payload.Bytes), true})
	case p.request.Zero:
		clear(payload.Bytes)
		p.segments = append(p.segments[:0], segment{0, len(payload.Bytes), false})
	case t.remote.canZero() && t.leastZero > 0:
		p.segments = segments(p.segments[:0], payload.Bytes, t.leastZero)
	default:
		p.segments = append(p.segments[:0], segment{0, len(payload.Bytes), false})
	}
	p.begin()
	for _, s := range p.segments {
		if s.zero {
			p.add(nbd.CmdWriteZeroes, int64(s.start), int64(s.end-s.start), nil)
			continue
		}
		for start := s.start; start < s.end; start += t.maxWrite {
			end := min(start+t.maxWrite, s.end)
			p.add(nbd.CmdWrite, int64(start), int64(end-start), payload.Bytes[start:end])
		}
	}
	if p.charged {
		t.limit.unused(p.length - p.bytes)
	}
	p.submit()
}

// sendZero sends a range that is known to read as zeroes.
func (p *piece) sendZero() {
	p.request.Data = nil
	p.begin()
	p.add(nbd.CmdWriteZeroes, 0, p.length, nil)
	p.submit()
}

func (p *piece) begin() { p.calls, p.bytes = p.calls[:0], 0 }

// add adds a request for length bytes, from bytes on within the piece.
func (p *piece) add(command nbd.Command, from, length int64, payload []byte) {
	p.bytes += int64(len(payload))
	p.calls = append(p.calls, client.Call{
		Request: nbd.Request{Command: command, Offset: uint64(p.off + from), Length: uint32(length)},
		Payload: payload,
		Done:    p.answered,
	})
}

// submit hands the requests to the connection. The last reply may come before it
// returns, and the piece be somebody else's then.
func (p *piece) submit() {
	p.batch = p.batch[:0]
	for i := range p.calls { // only now does the slice stay where it is
		p.batch = append(p.batch, &p.calls[i])
	}
	p.left.Store(int32(len(p.batch)))
	p.line.Send(p.batch...)
}

// reply is called for each request.
func (p *piece) reply(err error) {
	t := p.copier.t
	if err != nil {
		t.fail(remoteError(err))
	}
	if p.left.Add(-1) > 0 {
		return
	}
	if err == nil {
		now := time.Now()
		if p.bytes == p.length { // holes are quick and tell nothing of the path
			p.took = now.Sub(p.began)
		}
		t.sent(now, p.bytes)
	}
	p.finish()
}

// finish gives back all that the piece has, and then the piece.
func (p *piece) finish() {
	if p.request.Data != nil {
		p.reader.Return(p.request.Data)
		p.request.Data = nil
	}
	p.giveBack()
}

// abandon gives a piece back whose range was not sent: it is dirty as before.
func (p *piece) abandon() {
	p.copier.t.bitmap.Mark(p.off, p.length)
	p.giveBack()
}

// giveBack is finish for a piece that has no memory.
func (p *piece) giveBack() {
	p.copier.t.ranges.Unlock(p.claim)
	p.claim = nil
	p.copier.pacer.end(p.length, p.took)
	p.took = 0
	p.copier.free <- p
}
