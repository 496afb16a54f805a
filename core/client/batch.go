// SPDX-License-Identifier: GPL-3.0-or-later

package client

import (
	"net"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// One batch carries up to maxBatch requests, and no further ones once it has
// batchBytes: a reply to its first request that comes while the last is still being
// sent has to wait for that.
const (
	maxBatch   = 64
	batchBytes = 1 << 20
)

// batch is what the sender writes with one system call: headers and payloads in
// turn. Payloads are not copied.
type batch struct {
	calls   []*Call
	bytes   int
	headers []byte
	loose   int         // where the headers begin that are in no piece yet
	pieces  net.Buffers // keeps its memory while buffers is used up
	buffers net.Buffers
}

func newBatch() *batch {
	return &batch{
		calls:   make([]*Call, 0, maxBatch),
		headers: make([]byte, 0, maxBatch*nbd.RequestSize), // never moves
		pieces:  make(net.Buffers, 0, 2*maxBatch+1),
	}
}

func (b *batch) full() bool { return len(b.calls) == maxBatch || b.bytes >= batchBytes }

// add appends a request. The batch must not be full.
func (b *batch) add(c *Call, cookie uint64) {
	req := c.Request
	req.Cookie = cookie
	b.headers = nbd.AppendRequest(b.headers, req)
	b.calls = append(b.calls, c)
	b.bytes += wireSize(c)
	if len(c.Payload) > 0 {
		b.joinHeaders()
		b.pieces = append(b.pieces, c.Payload)
	}
}

// joinHeaders makes one piece of the headers since the last payload.
func (b *batch) joinHeaders() {
	if b.loose < len(b.headers) {
		b.pieces = append(b.pieces, b.headers[b.loose:])
		b.loose = len(b.headers)
	}
}

// writeTo writes everything and returns how many bytes were taken. On TCP and Unix
// sockets that is one writev, unless the socket takes less at a time.
func (b *batch) writeTo(conn net.Conn) (int64, error) {
	b.joinHeaders()
	b.buffers = b.pieces
	return b.buffers.WriteTo(conn)
}

// reset forgets everything and keeps the memory.
func (b *batch) reset() {
	clear(b.calls)
	clear(b.pieces)
	b.calls, b.pieces, b.headers = b.calls[:0], b.pieces[:0], b.headers[:0]
	b.buffers, b.bytes, b.loose = nil, 0, 0
}

// wireSize returns how many bytes a call is on the wire.
func wireSize(c *Call) int { return nbd.RequestSize + len(c.Payload) }
