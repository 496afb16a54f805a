// SPDX-License-Identifier: GPL-3.0-or-later

package mirror

import (
	"context"
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/core/owner"
	"github.com/flexnbd/flexnbd/core/session"
)

// Broken variant of the model: DEMOTE_AT_HELLO.
func TestPreparedRecordOutlivesAHandshake(t *testing.T) {
	s := newSite(t)
	s.prepare(sending(1, 10, 0))
	c := s.sender("next attempt", sending(1, 11, 10))
	s.wantPrepared(id(10))
	c.end(false)
	s.wantPrepared(id(10))
	must(t, s.sendCommit(id(10)))
	s.wantOwner(id(10))
}

// Broken variants of the model: NO_DEMOTE, DEMOTE_LATER.
func TestFirstDataWithdrawsThePreparedRecordDurably(t *testing.T) {
	s := newSite(t)
	s.prepare(sending(1, 10, 0))
	c := s.sender("next attempt", sending(1, 11, 10))
	s.disk.hook(func() {
		s.disk.onWrite = func([]byte) error {
			if st := s.durable(); st.Incomplete == nil || !st.Incomplete.Prepared.IsZero() {
				return fmt.Errorf("a write has landed beside %+v", st.Incomplete)
			}
			return nil
		}
	})
	must(t, c.write(0, 11))
	s.wantPrepared(owner.ID{})
	wantErrno(t, "COMMIT of what was withdrawn", s.sendCommit(id(10)), nbd.EPERM)
	s.powerCut()
	s.start(nil)
	s.wantPrepared(owner.ID{})
}

func TestConcurrentDataWaitsForTheWithdrawal(t *testing.T) {
	s := newSite(t)
	s.prepare(sending(1, 10, 0))
	a := s.sender("first", sending(1, 11, 10))
	b := s.sender("second", sending(1, 11, 10))
	reached, release := make(chan struct{}), newRelease(t)
	s.hooks.hook(func() { s.hooks.onSync = func() error { close(reached); <-release.c; return nil } })
	var early atomic.Bool
	s.disk.hook(func() {
		s.disk.onWrite = func([]byte) error {
			early.Store(early.Load() || !s.durable().Incomplete.Prepared.IsZero())
			return nil
		}
	})
	first := later(func() error { return a.write(0, 11) })
	arrived(t, reached, "the withdrawal to begin")
	second := later(func() error { return b.write(1, 11) })
	pending(t, second, "data was let in during the withdrawal")
	release.open()
	must(t, arrived(t, first, "the first write"))
	must(t, arrived(t, second, "the second write"))
	if early.Load() {
		t.Fatal("data has landed beside a prepared record")
	}
}

// Broken variant of the model: ANY_REPLACES.
func TestPreparedRecordIsReplacedOnlyByWhoNamesIt(t *testing.T) {
	s := newSite(t)
	s.prepare(sending(1, 10, 0)).end(true)
	for _, no := range []nbd.MigrationHello{sending(1, 11, 0), sending(1, 12, 9), sending(2, 20, 0)} {
		s.refuses(no, nbd.RepErrPolicy, "does not name it")
	}
	s.wantPrepared(id(10))
	must(t, s.sender("next attempt", sending(1, 13, 10)).write(0, 13))
	s.wantPrepared(owner.ID{})
}

func TestDataIsHeldAgainstTheRecordToo(t *testing.T) {
	s := newSite(t)
	c := s.sender("source", sending(1, 11, 9))
	must(t, s.records.Prepare(id(10))) // as nobody can, with a sender connected
	wantErrno(t, "data", c.write(0, 11), nbd.EPERM)
	s.wantPrepared(id(10))
	if !wholly(s.disk.content(), 0) {
		t.Fatal("data has landed beside a prepared record")
	}
}

func TestPreparedRecordOutlivesTheProcess(t *testing.T) {
	s := newSite(t)
	s.prepare(sending(1, 10, 0))
	s.powerCut()
	s.start(nil)
	s.wantPrepared(id(10))
	if !wholly(s.disk.content(), 10) {
		t.Fatal("the data of a prepared disk is gone")
	}
	s.refuses(sending(2, 20, 0), nbd.RepErrPolicy, "does not name it")
	c := s.sender("source, restarted", sending(3, 11, 10))
	s.wantPrepared(id(10))
	must(t, c.fill(11))
	must(t, c.prepare())
	must(t, s.sendCommit(id(11)))
	s.wantOwner(id(11))
}

func TestFailedWithdrawalLetsNoDataIn(t *testing.T) {
	s := newSite(t)
	s.prepare(sending(1, 10, 0))
	c := s.sender("next attempt", sending(1, 11, 10))
	s.hooks.hook(func() { s.hooks.onSync = func() error { return syscall.ENOSPC } })
	wantErrno(t, "data", c.write(0, 11), nbd.ENOSPC)
	s.hooks.hook(func() { s.hooks.onSync = nil })
	wantErrno(t, "data of an attempt that is over, for the same reason", c.write(1, 11), nbd.ENOSPC)
	if !wholly(s.disk.content(), 10) {
		t.Fatal("data has landed")
	}
	c.end(true)
	// Whatever the record says now, the next attempt withdraws it for sure.
	must(t, s.sender("third attempt", sending(1, 12, 10)).write(0, 12))
	s.wantPrepared(owner.ID{})
}

// Broken variant of the model: NO_DATA_FSYNC.
func TestPrepareMakesTheDataDurableBeforeTheRecord(t *testing.T) {
	s := newSite(t)
	c := s.sender("source", sending(1, 10, 0))
	must(t, c.fill(10))
	flushed := 0
	s.disk.hook(func() {
		s.disk.onFlush = func() error {
			flushed++
			if st := s.records.State(); !st.Incomplete.Prepared.IsZero() {
				return fmt.Errorf("the record was written before the data: %+v", st.Incomplete)
			}
			return nil
		}
	})
	must(t, c.prepare())
	if flushed == 0 || !wholly(s.disk.durable, 10) {
		t.Fatal("prepared, and the data is not durable")
	}
	s.wantPrepared(id(10))
}

func TestPrepareFailsWithTheFlush(t *testing.T) {
	s := newSite(t)
	c := s.sender("source", sending(1, 10, 0))
	must(t, c.fill(10))
	s.disk.hook(func() { s.disk.onFlush = func() error { return syscall.ENOSPC } })
	wantErrno(t, "PREPARE", c.prepare(), nbd.ENOSPC)
	s.wantPrepared(owner.ID{})
}

func TestPrepareFailsAfterAnErrorInTheAttempt(t *testing.T) {
	for what, fail := range map[string]func(*site, *conn){
		"write": func(s *site, c *conn) {
			s.disk.hook(func() { s.disk.onWrite = func([]byte) error { return syscall.ENOSPC } })
			wantErrno(s.t, "the write", c.write(0, 10), nbd.ENOSPC)
			s.disk.hook(func() { s.disk.onWrite = nil })
		},
		"flush": func(s *site, c *conn) {
			must(s.t, c.do(func(sender session.Sender) error { sender.Flushed(errDisk); return nil }))
		},
	} {
		t.Run(what, func(t *testing.T) {
			s := newSite(t)
			c := s.sender("source", sending(1, 10, 0))
			must(t, c.fill(10))
			must(t, c.do(func(sender session.Sender) error { sender.Flushed(nil); return nil }))
			other := s.sender("its other connection", sending(1, 10, 0))
			fail(s, other)
			other.end(true)
			if err := c.prepare(); err == nil {
				t.Fatal("PREPARE succeeded")
			}
			s.wantPrepared(owner.ID{})
			c.end(true)
			must(t, s.sender("next attempt", sending(1, 11, 0)).fill(11)) // starts afresh
		})
	}
}

func TestPrepareIsRefusedWhileDataIsUnderWay(t *testing.T) {
	s := newSite(t)
	a := s.sender("first", sending(1, 10, 0))
	b := s.sender("second", sending(1, 10, 0))
	must(t, a.fill(10))
	reached, release := make(chan struct{}), newRelease(t)
	s.disk.hook(func() { s.disk.onWrite = func([]byte) error { close(reached); <-release.c; return nil } })
	write := later(func() error { return b.write(0, 10) })
	arrived(t, reached, "the write to reach the disk")
	wantErrno(t, "PREPARE", a.prepare(), nbd.EPERM)
	release.open()
	must(t, arrived(t, write, "the write"))
	wantErrno(t, "a second PREPARE", a.prepare(), nbd.EPERM)
	s.wantPrepared(owner.ID{})
}

func TestNoDataIsLetInAfterPrepare(t *testing.T) {
	s := newSite(t)
	a := s.sender("first", sending(1, 10, 0))
	b := s.sender("second", sending(1, 10, 0))
	must(t, a.fill(10))
	reached, release := make(chan struct{}), newRelease(t)
	s.disk.hook(func() { s.disk.onFlush = func() error { close(reached); <-release.c; return nil } })
	prepared := later(a.prepare)
	arrived(t, reached, "PREPARE to flush")
	wantErrno(t, "data during PREPARE", b.write(0, 11), nbd.EPERM)
	s.refuses(sending(1, 10, 0), nbd.RepErrPolicy, "has come to its PREPARE")
	release.open()
	must(t, arrived(t, prepared, "PREPARE"))
	wantErrno(t, "data after PREPARE", b.write(0, 11), nbd.EPERM)
	wantErrno(t, "data after PREPARE", a.write(0, 11), nbd.EPERM)
	s.wantPrepared(id(10))
	if !wholly(s.disk.content(), 10) {
		t.Fatal("data has landed after PREPARE")
	}
}

// Broken variant of the model: SAME_ID_SHORTCUT.
func TestPrepareIsNeverAnsweredFromMemory(t *testing.T) {
	s := newSite(t)
	c := s.prepare(sending(1, 10, 0))
	wantErrno(t, "a second PREPARE", c.prepare(), nbd.EPERM)
	c.end(true)
	s.refuses(sending(1, 10, 0), nbd.RepErrPolicy, "can only be committed")
	s.refuses(sending(1, 10, 10), nbd.RepErrPolicy, "can only be committed")
	s.powerCut() // nor after it was forgotten that the attempt is over
	s.start(nil)
	s.refuses(sending(1, 10, 10), nbd.RepErrPolicy, "can only be committed")
}

func TestPrepareNeedsDataOfItsOwn(t *testing.T) {
	s := newSite(t)
	wantErrno(t, "PREPARE without data", s.sender("source", sending(1, 10, 0)).prepare(), nbd.EPERM)
	s.wantPrepared(owner.ID{})
	s.prepare(sending(1, 11, 0))
	wantErrno(t, "PREPARE without data", s.sender("next attempt", sending(1, 12, 11)).prepare(), nbd.EPERM)
	s.wantPrepared(id(11))
}

func TestPrepareWhoseRecordCannotBeWrittenFails(t *testing.T) {
	s := newSite(t)
	c := s.sender("source", sending(1, 10, 0))
	must(t, c.fill(10))
	s.hooks.hook(func() { s.hooks.onSync = func() error { return syscall.ENOSPC } })
	wantErrno(t, "PREPARE", c.prepare(), nbd.ENOSPC)
	s.hooks.hook(func() { s.hooks.onSync = nil })
	wantErrno(t, "data after PREPARE", c.write(0, 11), nbd.EPERM)
	c.end(true)
	// The record may be there; the next attempt names it and goes on.
	next := s.prepare(sending(1, 11, 10))
	s.wantPrepared(id(11))
	next.end(true)
}

func TestPrepareOfAnAttemptThatLosesAConnectionFails(t *testing.T) {
	s := newSite(t)
	a := s.connectStubborn("first")
	must(t, a.hello(sending(1, 10, 0)))
	b := s.sender("second", sending(1, 10, 0))
	must(t, a.fill(10))
	reached, release := make(chan struct{}), newRelease(t)
	s.disk.hook(func() { s.disk.onFlush = func() error { close(reached); <-release.c; return nil } })
	prepared := later(a.prepare)
	arrived(t, reached, "PREPARE to flush")
	b.end(false)
	release.open()
	wantErrno(t, "PREPARE", arrived(t, prepared, "PREPARE"), nbd.EPERM)
	s.wantPrepared(owner.ID{})
}

func TestPrepareStopsWithItsConnection(t *testing.T) {
	s := newSite(t)
	c := s.sender("source", sending(1, 10, 0))
	must(t, c.fill(10))
	reached, release := make(chan struct{}), newRelease(t)
	s.disk.hook(func() { s.disk.onFlush = func() error { close(reached); <-release.c; return nil } })
	ctx, cancel := context.WithCancel(context.Background())
	prepared := later(func() error {
		return c.do(func(s session.Sender) error { return s.Prepare(ctx) })
	})
	arrived(t, reached, "PREPARE to flush")
	cancel()
	if err := arrived(t, prepared, "PREPARE"); err == nil {
		t.Fatal("PREPARE succeeded")
	}
	release.open()
	s.wantPrepared(owner.ID{})
}

// Broken variants of the model: TAKE_OVER_ON_EOF, TAKE_OVER_COVERED.
func TestTheEndOfAConnectionNeverTakesOver(t *testing.T) {
	for _, prepared := range []bool{false, true} {
		for _, disc := range []bool{false, true} {
			s := newSite(t)
			c := s.sender("source", sending(1, 10, 0))
			must(t, c.fill(10)) // every byte
			want := owner.ID{}
			if prepared {
				must(t, c.prepare())
				want = id(10)
			}
			c.end(disc)
			s.wantWaiting()
			s.wantPrepared(want)
			s.stop()
		}
	}
}
