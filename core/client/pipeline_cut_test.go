// SPDX-License-Identifier: GPL-3.0-or-later

package client

import (
	"bytes"
	"errors"
	"net"
	"syscall"
	"testing"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// wired is a client in the transmission phase whose server says only what is
// canned, once the first request has come, and then hangs up.
func wired(conn net.Conn) *Client {
	return &Client{conn: conn, size: 1 << 20, flags: pipelineFlags, sizes: nbd.DefaultBlockSizes}
}

// late is canned, but says nothing before it has been spoken to n times.
type late struct {
	canned
	ready chan struct{}
	left  int // bytes that the client has to say first
}

func newLate(says []byte, after int) *late {
	return &late{canned: canned{bytes.NewReader(says)}, ready: make(chan struct{}), left: after}
}

func (l *late) Write(b []byte) (int, error) {
	if l.left > 0 {
		if l.left -= len(b); l.left <= 0 {
			close(l.ready)
		}
	}
	return len(b), nil
}

func (l *late) Read(b []byte) (int, error) {
	<-l.ready
	return l.canned.Read(b)
}

const (
	cutCalls   = 5
	cutPayload = 10
	cutBytes   = cutCalls * (nbd.RequestSize + cutPayload)
)

// exchange sends cutCalls writes to a server that replies with says, and returns
// how they ended.
func exchange(t *testing.T, says []byte) (ends []error, why error) {
	p := wired(newLate(says, cutBytes)).Pipeline(PipelineOptions{})
	l := newLedger(t)
	var calls []*Call
	for i := range uint64(cutCalls) {
		calls = append(calls, l.call(nbd.CmdWrite, i*cutPayload, cutPayload))
	}
	p.Send(calls...)
	l.ended.Wait()
	<-p.Broken()
	p.Close()
	for _, c := range calls {
		ends = append(ends, l.of(c))
	}
	return ends, p.Err()
}

// replyStream answers the writes of exchange: the third with ENOSPC, the last first.
func replyStream() (stream []byte, order []int) {
	order = []int{4, 0, 2, 1, 3}
	for _, i := range order {
		errno := nbd.Errno(0)
		if i == 2 {
			errno = nbd.ENOSPC
		}
		stream = nbd.AppendSimpleReply(stream, errno, 1<<32|uint64(i))
	}
	return stream, order
}

func TestRepliesCutAtAnyByte(t *testing.T) {
	stream, order := replyStream()
	for k := range len(stream) + 1 {
		ends, why := exchange(t, stream[:k])
		for at, i := range order {
			var want error
			switch {
			case at >= k/nbd.SimpleReplySize:
				want = why
			case i == 2:
				want = nbd.ENOSPC
			}
			if !errors.Is(ends[i], want) {
				t.Errorf("cut after %d bytes: call %d got %v, want %v", k, i, ends[i], want)
			}
		}
		if why == nil {
			t.Errorf("cut after %d bytes: the pipeline is not broken", k)
		}
	}
}

func TestAnyFlippedBitOfAReplyIsSurvived(t *testing.T) {
	stream, _ := replyStream()
	for i := range stream {
		for bit := range 8 {
			b := bytes.Clone(stream)
			b[i] ^= 1 << bit
			ends, _ := exchange(t, b)
			fine := 0
			for _, err := range ends {
				if err == nil {
					fine++
				}
			}
			// Four succeed in the whole stream, and its third reply is the refusal: a
			// bit of any other takes a success away.
			if fine > 4 || fine == 4 && i/nbd.SimpleReplySize != 2 {
				t.Errorf("bit %d of byte %d: %d calls succeeded", bit, i, fine)
			}
		}
	}
}

func FuzzReplies(f *testing.F) {
	stream, _ := replyStream()
	f.Add(stream)
	f.Add(stream[:17])
	f.Add(bytes.Repeat(stream[:16], 3))
	f.Add(nbd.AppendNoneChunk(nil, 1<<32))
	f.Fuzz(func(t *testing.T, b []byte) {
		ends, why := exchange(t, b)
		for i, err := range ends {
			ok := bytes.Contains(b, nbd.AppendSimpleReply(nil, 0, 1<<32|uint64(i)))
			if why == nil || err == nil && !ok {
				t.Errorf("call %d: %v; broken: %v", i, err, why)
			}
		}
	})
}

// torn takes half of what it is told, and fails then. The server's words come when the
// sender has given up.
type torn struct {
	canned
	gaveUp chan struct{}
}

func (c *torn) Write(b []byte) (int, error) { return len(b) / 2, syscall.EPIPE }

func (c *torn) Read(b []byte) (int, error) {
	<-c.gaveUp
	return c.canned.Read(b)
}

// A server that refuses a request before it has seen all of it is believed, one that
// has carried it out is not; and the call is told in either case, though the sender has
// finished with it.
func TestReplyToHalfARequestAfterTheSenderGaveUp(t *testing.T) {
	for _, errno := range []nbd.Errno{0, nbd.ENOSPC} {
		conn := &torn{canned{bytes.NewReader(nbd.AppendSimpleReply(nil, errno, 1<<32))}, make(chan struct{})}
		p := wired(conn).Pipeline(PipelineOptions{})
		l := newLedger(t)
		write := l.call(nbd.CmdWrite, 0, 4096)
		p.Send(write)
		<-p.Broken()
		close(conn.gaveUp)
		l.ended.Wait()
		p.Close()
		var want error = errno
		if errno == 0 {
			want = p.Err()
		}
		if err := l.of(write); !errors.Is(err, want) || !errors.Is(p.Err(), syscall.EPIPE) {
			t.Errorf("the call ended with %v, the pipeline with %v; the server had said %v", err, p.Err(), errno)
		}
	}
}
