// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// TestVainAttentionIsGivenUp has a client that never answers at once.
func TestVainAttentionIsGivenUp(t *testing.T) {
	near, far := socketpair(t, unix.SOCK_STREAM)
	defer near.Close()
	defer far.Close()
	in := newIntake(newSocket(far), nil)
	a := &in.socket.reading.attention
	empty := in.empty
	waited := make(chan struct{}, 1)
	in.empty = func() { empty(); waited <- struct{}{} } // the reader goes to the poller
	for range 2 * maxCredit {
		done := make(chan error, 1)
		go func() {
			_, err := in.next(true)
			done <- err
		}()
		receive(t, waited)
		if _, err := near.Write(make([]byte, nbd.RequestSize)); err != nil {
			t.Fatal(err)
		}
		if err := receive(t, done); err != nil {
			t.Fatal(err)
		}
		in.skip(nbd.RequestSize)
	}
	if a.spins() {
		t.Errorf("still asking again and again, with a credit of %d", a.credit)
	}
}

// TestAttentionGetsWhatComesAtOnce has the request there before the reader looks.
func TestAttentionGetsWhatComesAtOnce(t *testing.T) {
	near, far := socketpair(t, unix.SOCK_STREAM)
	defer near.Close()
	defer far.Close()
	in := newIntake(newSocket(far), nil)
	in.empty = func() { t.Error("the reader goes to the poller") }
	for i := range 2 * maxCredit {
		header := nbd.AppendRequest(nil, nbd.Request{Command: nbd.CmdRead, Cookie: uint64(i), Length: 1})
		if _, err := near.Write(header); err != nil {
			t.Fatal(err)
		}
		b, err := in.next(true)
		if r, bad := nbd.DecodeRequest(b); err != nil || bad != nil || r.Cookie != uint64(i) {
			t.Fatalf("request %d: %v, %v, %+v", i, err, bad, r)
		}
		in.skip(nbd.RequestSize)
	}
	if credit := in.socket.reading.attention.credit; credit != maxCredit {
		t.Errorf("credit is %d", credit)
	}
}
