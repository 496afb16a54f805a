// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"testing"
	"time"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// pipeline is a connection on which many requests can be in flight, for one
// goroutine. Its replies are simple ones.
type pipeline struct {
	t      *testing.T
	conn   net.Conn
	r      *bufio.Reader
	sent   map[uint64]nbd.Request // by cookie, those without a reply
	cookie uint64
}

// completion is a reply.
type completion struct {
	cookie uint64
	errno  nbd.Errno
	data   []byte
}

func (s *server) pipeline() *pipeline {
	s.t.Helper()
	conn := s.transmission()
	return &pipeline{t: s.t, conn: conn, r: bufio.NewReader(conn), sent: map[uint64]nbd.Request{}}
}

// send sends a request and returns its cookie.
func (p *pipeline) send(request nbd.Request, payload []byte) uint64 {
	p.t.Helper()
	p.cookie++
	request.Cookie = p.cookie
	p.sent[p.cookie] = request
	if err := p.conn.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		p.t.Fatal(err)
	}
	if _, err := p.conn.Write(append(nbd.AppendRequest(nil, request), payload...)); err != nil {
		p.t.Fatalf("%v: %v", request.Command, err)
	}
	return p.cookie
}

// next waits for the next reply, whichever request it is for.
func (p *pipeline) next() completion {
	p.t.Helper()
	return p.nextWithin(patience)
}

func (p *pipeline) nextWithin(limit time.Duration) completion {
	p.t.Helper()
	if err := p.conn.SetReadDeadline(time.Now().Add(limit)); err != nil {
		p.t.Fatal(err)
	}
	header := make([]byte, nbd.SimpleReplySize)
	if _, err := io.ReadFull(p.r, header); err != nil {
		p.t.Fatalf("%d requests wait, and there is no reply: %v", len(p.sent), err)
	}
	reply, err := nbd.DecodeSimpleReply(header)
	if err != nil {
		p.t.Fatal(err)
	}
	request, expected := p.sent[reply.Cookie]
	if !expected {
		p.t.Fatalf("a reply that nobody waits for: %+v", reply)
	}
	delete(p.sent, reply.Cookie)
	c := completion{cookie: reply.Cookie, errno: reply.Errno}
	if request.Command == nbd.CmdRead && reply.Errno == 0 {
		c.data = make([]byte, request.Length)
		if _, err := io.ReadFull(p.r, c.data); err != nil {
			p.t.Fatalf("within the data of a read: %v", err)
		}
	}
	return c
}

// wantRead reads and compares. The reply has to be the next one, whatever else is in
// flight.
func (p *pipeline) wantRead(off uint64, want []byte) {
	p.t.Helper()
	cookie := p.send(nbd.Request{Command: nbd.CmdRead, Offset: off, Length: uint32(len(want))}, nil)
	if got := p.next(); got.cookie != cookie || got.errno != 0 || !bytes.Equal(got.data, want) {
		p.t.Fatalf("read of %d bytes at %d: reply %d, want %d; %v, right data: %v", len(want), off, got.cookie, cookie, got.errno, bytes.Equal(got.data, want))
	}
}

// wantWrite writes. The reply has to be the next one, whatever else is in flight.
func (p *pipeline) wantWrite(off uint64, data []byte) {
	p.t.Helper()
	cookie := p.send(nbd.Request{Command: nbd.CmdWrite, Offset: off, Length: uint32(len(data))}, data)
	if got := p.next(); got.cookie != cookie || got.errno != 0 {
		p.t.Fatalf("write of %d bytes at %d: reply %d, want %d; %v", len(data), off, got.cookie, cookie, got.errno)
	}
}

// want makes a request whose reply has to be the next one, with this error or none.
func (p *pipeline) want(errno nbd.Errno, request nbd.Request, payload []byte) {
	p.t.Helper()
	cookie := p.send(request, payload)
	if got := p.next(); got.cookie != cookie || got.errno != errno {
		p.t.Fatalf("%v of %d bytes at %d: reply %d, want %d; %v, want %v", request.Command, request.Length, request.Offset, got.cookie, cookie, got.errno, errno)
	}
}

func (p *pipeline) close() { _ = p.conn.Close() }
