// SPDX-License-Identifier: GPL-3.0-or-later

package mirror

import (
	"syscall"
	"testing"

	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/core/owner"
	"github.com/flexnbd/flexnbd/core/session"
)

// newOldSite is a machine that has run listen --handshake oldstyle.
func newOldSite(t *testing.T) *site {
	s := newMachine(t)
	s.start(listenOldstyle)
	return s
}

func listenOldstyle(c *DestinationConfig) { c.Handshake = session.Oldstyle }

// oldSender is a connection of flexnbd 0.x.
func (s *site) oldSender() *conn {
	s.t.Helper()
	c := s.connect("0.x")
	must(s.t, c.oldstyle())
	if c.sender == nil {
		s.t.Fatal("the sender was taken for a client")
	}
	return c
}

// wantTakenOver checks that the disk was taken over, under whichever id.
func (s *site) wantTakenOver() {
	s.t.Helper()
	id := s.records.State().Received
	if id == nil {
		s.t.Fatalf("nothing was taken over: %+v", s.records.State())
	}
	s.wantOwner(id.ID)
}

func TestEntrustAndGoodbyeTakeOver(t *testing.T) {
	s := newOldSite(t)
	c := s.oldSender()
	must(t, c.fill(10))
	must(t, c.write(3, 11))
	flushed := false
	s.disk.hook(func() { s.disk.onFlush = func() error { flushed = true; return nil } })
	must(t, c.entrust())
	if !flushed {
		t.Fatal("ENTRUST was acknowledged before the data is durable")
	}
	s.wantWaiting()
	wantErrno(t, "data after ENTRUST", c.write(0, 12), nbd.EPERM)
	c.end(true)
	s.wantTakenOver()

	// Clients are served once the server says so.
	client := s.connect("client")
	if client.oldstyle() == nil {
		t.Fatal("a client was let in before the disk is served")
	}
	s.Serving(true)
	if must(t, client.oldstyle()); client.sender != nil {
		t.Fatal("a client was taken for a sender")
	}
}

func TestGoodbyeAloneTakesOverOnlyAWholeDisk(t *testing.T) {
	s := newOldSite(t)
	c := s.oldSender()
	for n := range blocks - 1 {
		must(t, c.write(n, 10))
	}
	c.end(true)
	s.wantWaiting()
	s.wantPrepared(owner.ID{})

	c = s.oldSender() // what arrived on another connection does not count
	must(t, c.write(blocks-1, 10))
	c.end(true)
	s.wantWaiting()

	s.oldSender().end(true) // nor does a goodbye after nothing
	s.wantWaiting()

	c = s.oldSender()
	must(t, c.fill(11))
	c.end(true)
	s.wantTakenOver()
	if !wholly(s.disk.durable, 11) {
		t.Fatal("taken over before the data is durable")
	}
}

func TestGoodbyeAfterAFailureDoesNotTakeOver(t *testing.T) {
	s := newOldSite(t)
	c := s.oldSender()
	must(t, c.fill(10))
	s.disk.hook(func() { s.disk.onWrite = func([]byte) error { return syscall.ENOSPC } })
	wantErrno(t, "the write", c.write(0, 11), nbd.ENOSPC)
	s.disk.hook(func() { s.disk.onWrite = nil })
	wantErrno(t, "ENTRUST", c.entrust(), nbd.EPERM)
	c.end(true)
	s.wantWaiting()
	s.wantPrepared(owner.ID{})

	c = s.oldSender()
	must(t, c.fill(12))
	s.disk.hook(func() { s.disk.onFlush = func() error { return syscall.EIO } })
	c.end(true)
	s.wantWaiting()
	s.wantPrepared(owner.ID{})
}

func TestLostOldstyleConnectionDoesNotTakeOver(t *testing.T) {
	s := newOldSite(t)
	c := s.oldSender()
	must(t, c.fill(10))
	c.end(false)
	s.wantWaiting()
	s.wantPrepared(owner.ID{})
}

// A source whose ENTRUST was acknowledged may have ended, or may not have heard of
// it.
func TestEntrustWithoutGoodbyeIsForTheOperatorOrTheNextAttempt(t *testing.T) {
	s := newOldSite(t)
	c := s.oldSender()
	must(t, c.fill(10))
	must(t, c.entrust())
	c.end(false)
	s.wantWaiting()
	entrusted := s.Status().ID
	s.wantPrepared(entrusted)

	c = s.oldSender() // it has not heard
	s.wantPrepared(entrusted)
	must(t, c.fill(11))
	s.wantPrepared(owner.ID{})
	must(t, c.entrust())
	c.end(false)
	entrusted = s.Status().ID
	s.powerCut()
	s.start(listenOldstyle)
	s.wantPrepared(entrusted)
	if s.connect("0.x").oldstyle() == nil {
		t.Fatal("a sender was let in although another may have given its disk away")
	}
	must(t, s.Promote(entrusted)) // it has ended
	s.wantOwner(entrusted)
	if !wholly(s.disk.content(), 11) {
		t.Fatal("what was promoted is not what was entrusted")
	}
}

func TestEntrustNeedsData(t *testing.T) {
	s := newOldSite(t)
	c := s.oldSender()
	wantErrno(t, "ENTRUST", c.entrust(), nbd.EPERM)
	c.end(true)
	s.wantWaiting()
}

func TestOldstyleSendersComeOneByOne(t *testing.T) {
	s := newOldSite(t)
	c := s.oldSender()
	if s.connect("another").oldstyle() == nil {
		t.Fatal("two senders at once")
	}
	must(t, c.fill(10))
	c.end(false)
	s.oldSender()
}

func TestOldstyleHandshakeIsForServersThatWereToldSo(t *testing.T) {
	s := newSite(t)
	if s.connect("0.x").oldstyle() == nil {
		t.Fatal("a server that waits for newstyle senders let one in")
	}
}

func TestCommandsOfTheOtherHandshakeAreRefused(t *testing.T) {
	s := newSite(t)
	c := s.sender("source", sending(1, 10, 0))
	must(t, c.fill(10))
	wantErrno(t, "ENTRUST", c.entrust(), nbd.EINVAL)
	wantErrno(t, "COMMIT of a sender", c.commit(), nbd.EINVAL)
	must(t, c.prepare())

	old := newOldSite(t)
	c = old.oldSender()
	must(t, c.fill(10))
	wantErrno(t, "PREPARE", c.prepare(), nbd.EINVAL)
	wantErrno(t, "COMMIT", c.commit(), nbd.EINVAL)
	old.wantPrepared(owner.ID{})
}
