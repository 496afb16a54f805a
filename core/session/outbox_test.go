// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"bytes"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// message makes a reply of a head and a body.
func message(i int) reply {
	r := reply{body: bytes.Repeat([]byte{byte(i)}, i%7)}
	r.setHead(nbd.AppendSimpleReply(r.head[:0], 0, uint64(i)))
	return r
}

// TestQueuedRepliesLeaveWithOneSystemCall sends over a socket that keeps the
// boundaries of writes.
func TestQueuedRepliesLeaveWithOneSystemCall(t *testing.T) {
	near, far := socketpair(t, unix.SOCK_SEQPACKET)
	defer near.Close()
	defer far.Close()
	const n = 100 // two buffers each, fewer than maxVectors
	sent := 0
	o := newOutbox(newSocket(far), func(*reply) { sent++ }, func(err error) { t.Error(err) })
	var want []byte
	for i := range n {
		r := message(i)
		want = append(append(want, r.head[:r.headLen]...), r.body...)
		o.put(r)
	}
	o.push()
	got := make([]byte, 2*len(want))
	_ = near.SetReadDeadline(time.Now().Add(patience))
	size, err := near.Read(got)
	if err != nil || !bytes.Equal(got[:size], want) || sent != n {
		t.Errorf("got %d of %d bytes with the first call, %v; %d replies sent", size, len(want), err, sent)
	}
}

// TestRepliesAreFreedAfterAFailure checks that every reply is given back, once,
// though none can be sent.
func TestRepliesAreFreedAfterAFailure(t *testing.T) {
	near, far := socketpair(t, unix.SOCK_STREAM)
	near.Close()
	defer far.Close()
	sent, broken := 0, 0
	o := newOutbox(newSocket(far), func(*reply) { sent++ }, func(error) { broken++ })
	done := make(chan struct{})
	go func() { defer close(done); o.write() }()
	for i := range 1000 {
		o.put(message(i))
	}
	s := &stream{ready: make(chan []byte), sent: make(chan struct{})}
	o.put(reply{stream: s})
	o.push()
	s.send([]byte("nobody takes this"))
	close(s.ready)
	o.close()
	receive(t, done)
	if sent != 1001 || broken != 1 {
		t.Errorf("%d of 1001 replies freed, %d failures told", sent, broken)
	}
}

// TestLastRepliesMayTakeLong has a client that is slow, but not dead, take what a
// session still owes it.
func TestLastRepliesMayTakeLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		var failure error
		o := newOutbox(newSocket(far), func(*reply) {}, func(err error) { failure = err })
		o.limit()
		const pieces = 20
		s := &stream{ready: make(chan []byte), sent: make(chan struct{})}
		o.put(reply{stream: s})
		o.push()
		o.close()
		done := make(chan struct{})
		go func() { defer close(done); o.write() }()
		go func() {
			for range pieces {
				s.send(make([]byte, wire.MaxPayload))
			}
			close(s.ready)
		}()
		b := make([]byte, wire.MaxPayload)
		for range pieces {
			time.Sleep(sendTimeout - time.Second)
			_, _ = near.Read(b)
		}
		<-done
		if failure != nil {
			t.Errorf("a slow client was given up: %v", failure)
		}
		_ = near.Close()
	})
}

// TestLastRepliesDoNotWaitForADeadClient is the other side of it.
func TestLastRepliesDoNotWaitForADeadClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer near.Close()
		var failure error
		o := newOutbox(newSocket(far), func(*reply) {}, func(err error) { failure = err })
		o.put(message(1))
		o.push()
		o.close()
		done := make(chan struct{})
		began := time.Now()
		go func() { defer close(done); o.write() }()
		synctest.Wait()
		o.limit() // while a write is under way
		<-done
		var timeout net.Error
		if took := time.Since(began); took != sendTimeout || !errors.As(failure, &timeout) || !timeout.Timeout() {
			t.Errorf("given up after %v with %v", took, failure)
		}
	})
}
