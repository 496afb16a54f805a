// SPDX-License-Identifier: GPL-3.0-or-later

package mirror

import (
	"context"
	"errors"
	"testing"

	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/core/owner"
	"github.com/flexnbd/flexnbd/core/session"
)

func TestHelloIsHeldAgainstWhatTheDiskIs(t *testing.T) {
	s := newSite(t)
	other := sending(1, 10, 0)
	other.Size++
	s.refuses(other, nbd.RepErrUnknown, "32769")
	version := sending(1, 10, 0)
	version.Version = 2
	s.refuses(version, nbd.RepErrInvalid, "version 2")
	nobody := sending(0, 10, 0)
	s.refuses(nobody, nbd.RepErrInvalid, "source")

	late := committing(id(10))
	late.Size++ // the id alone decides
	if err := s.connect("committer").hello(late); err != nil {
		t.Fatalf("a connection for COMMIT was refused: %v", err)
	}
}

func TestHelloOfAConnectionComesOnce(t *testing.T) {
	s := newSite(t)
	c := s.sender("source", sending(1, 10, 0))
	wantRefusal(t, c.hello(sending(1, 11, 0)), nbd.RepErrInvalid, "already")
	if c.wasCut() {
		t.Fatal("a refused hello has cut the connection")
	}
	must(t, c.fill(10))
}

func TestAnswerSaysWhereTheDiskWillBeAndWhatIsOnIt(t *testing.T) {
	s := newSite(t)
	c := s.sender("source", sending(1, 10, 0))
	want := nbd.MigrationAnswer{Version: nbd.MigrationVersion, Flags: nbd.MigrationZeroes, Size: diskSize, Address: home.Addr, Port: home.Port}
	if c.answer != want {
		t.Fatalf("got %+v, want %+v", c.answer, want)
	}
	must(t, c.fill(10))
	must(t, c.prepare())
	c.end(true)

	// The next is told of the data that is there now, and of the record.
	want.Flags, want.Prepared = nbd.MigrationPrepared, id(10)
	if c = s.sender("source", sending(1, 11, 10)); c.answer != want {
		t.Fatalf("got %+v, want %+v", c.answer, want)
	}
	c.end(true)
	c = s.connect("committer")
	must(t, c.hello(committing(id(10))))
	if c.answer != want {
		t.Fatalf("got %+v, want %+v", c.answer, want)
	}
	must(t, c.commit())
	c.end(true)

	want.Flags, want.Prepared = nbd.MigrationOwner, owner.ID{}
	c = s.connect("committer")
	must(t, c.hello(committing(id(10))))
	if c.answer != want {
		t.Fatalf("got %+v, want %+v", c.answer, want)
	}
}

func TestZeroesAreAskedForOnlyWhenOlderWritesHaveEnded(t *testing.T) {
	s := newSite(t)
	old := s.connectStubborn("half open")
	must(t, old.hello(sending(1, 10, 0)))
	reached, release := make(chan struct{}), newRelease(t)
	s.disk.hook(func() { s.disk.onWrite = func([]byte) error { close(reached); <-release.c; return nil } })
	late := later(func() error { return old.write(0, 10) })
	arrived(t, reached, "the write to reach the disk")

	c := s.connect("source")
	answered := later(func() error { return c.hello(sending(1, 11, 0)) })
	arrived(t, old.cut, "the older connection to be cut")
	pending(t, answered, "the hello was answered with an older write under way")
	release.open()
	must(t, arrived(t, late, "the write to end"))
	old.end(false)
	must(t, arrived(t, answered, "the hello to be answered"))
	if c.answer.Flags.Has(nbd.MigrationZeroes) {
		t.Fatal("the disk is said to read as zeroes, but an older write has landed on it")
	}
}

func TestAnOwnerTakesNoDisk(t *testing.T) {
	s := newMachine(t)
	s.start(func(c *DestinationConfig) { c.Waiting = false })
	s.refuses(sending(1, 10, 0), nbd.RepErrPolicy, "this server owns the disk")
	arrived(t, s.Owned(), "Owned of a server with its own disk")
	if why := s.Guest(); why != "" {
		t.Fatalf("a client is refused: %s", why)
	}
}

func TestServerWithoutRecordsIsAPlainServer(t *testing.T) {
	s := newMachine(t)
	s.start(func(c *DestinationConfig) { c.Waiting, c.Records = false, nil })
	s.refuses(sending(1, 10, 0), nbd.RepErrPolicy, "this server owns the disk")
	wantErrno(t, "COMMIT", s.sendCommit(id(10)), nbd.EPERM)
	if err := s.Promote(id(10)); !errors.Is(err, ErrNotPrepared) {
		t.Fatalf("promote: %v", err)
	}
	if why := s.Guest(); why != "" {
		t.Fatalf("a client is refused: %s", why)
	}
}

func TestConnectionsWithOneIDAreOneAttempt(t *testing.T) {
	s := newSite(t)
	a := s.sender("first", sending(1, 10, 0))
	b := s.sender("second", sending(1, 10, 0))
	must(t, a.write(0, 10))
	must(t, b.write(1, 10))
	if a.wasCut() || b.wasCut() {
		t.Fatal("a connection that joins fences another")
	}
	if st := s.Status(); st.Connections != 2 || st.BytesReceived != 2*block || st.ID != id(10) || st.State != DestinationReceiving {
		t.Fatalf("status %+v", st)
	}
	s.refuses(sending(2, 10, 0), nbd.RepErrInvalid, "another source")
	s.refuses(sending(1, 10, 9), nbd.RepErrInvalid, "replaces another")

	b.end(true) // in order: nothing on it was lost
	must(t, a.prepare())
	s.refuses(sending(1, 10, 0), nbd.RepErrPolicy, "can only be committed")
	s.wantPrepared(id(10))
}

func TestNobodyJoinsBeforeTheAttemptIsOpen(t *testing.T) {
	s := newSite(t)
	old := s.connectStubborn("half open")
	must(t, old.hello(sending(1, 10, 0)))
	first, second := s.connect("first"), s.connect("second")
	opened := later(func() error { return first.hello(sending(1, 11, 0)) })
	arrived(t, old.cut, "the older connection to be cut")
	joined := later(func() error { return second.hello(sending(1, 11, 0)) })
	pending(t, joined, "a connection has joined an attempt that is not open")
	old.end(false)
	must(t, arrived(t, opened, "the attempt to open"))
	must(t, arrived(t, joined, "the second connection to join"))
}

// Broken variants of the model: NO_FENCE, ONE_SENDER_LITERALLY.
func TestANewIDFencesTheOlderAttemptHoweverAliveItSeems(t *testing.T) {
	s := newSite(t)
	old := s.connectStubborn("half open")
	must(t, old.hello(sending(1, 10, 0)))
	must(t, old.fill(10))
	joined := s.connectStubborn("half open too")
	must(t, joined.hello(sending(1, 10, 0)))

	c := s.connect("source")
	answered := later(func() error { return c.hello(sending(1, 11, 0)) })
	arrived(t, old.cut, "an older connection to be cut")
	arrived(t, joined.cut, "an older connection to be cut")
	wantErrno(t, "a late write", old.write(0, 10), nbd.EPERM)
	wantErrno(t, "a late PREPARE", old.prepare(), nbd.EPERM)
	s.wantPrepared(owner.ID{})
	old.end(false)
	pending(t, answered, "the hello was answered with an older connection alive")
	joined.end(false)
	must(t, arrived(t, answered, "the hello to be answered"))

	must(t, c.fill(11))
	must(t, c.prepare())
	s.wantPrepared(id(11))
	if !wholly(s.disk.content(), 11) {
		t.Fatal("the disk holds older data")
	}
}

func TestHelloWaitsForAPrepareInHand(t *testing.T) {
	for _, late := range []bool{false, true} {
		s := newSite(t)
		old := s.connectStubborn("half open")
		must(t, old.hello(sending(1, 10, 0)))
		must(t, old.fill(10))
		reached, release := make(chan struct{}), newRelease(t)
		hold := func() error { close(reached); <-release.c; return nil }
		if late { // the record is being written already
			s.hooks.hook(func() { s.hooks.onSync = hold })
		} else {
			s.disk.hook(func() { s.disk.onFlush = hold })
		}
		prepared := later(old.prepare)
		arrived(t, reached, "PREPARE to come as far")
		s.disk.hook(func() { s.disk.onFlush = nil })
		s.hooks.hook(func() { s.hooks.onSync = nil })

		c := s.connect("source")
		answered := later(func() error { return c.hello(sending(1, 11, 10)) })
		if !late {
			arrived(t, old.cut, "the older connection to be cut")
		}
		pending(t, answered, "the hello was answered with an older PREPARE in hand")
		release.open()
		err := arrived(t, prepared, "PREPARE to end")
		old.end(false)
		must(t, arrived(t, answered, "the hello to be answered"))
		if late {
			must(t, err)
			s.wantPrepared(id(10))
		} else {
			wantErrno(t, "PREPARE of an attempt that was fenced", err, nbd.EPERM)
			s.wantPrepared(owner.ID{})
		}
		s.stop()
	}
}

func TestHelloLooksAgainAtARecordThatWasWrittenWhileItWaited(t *testing.T) {
	s := newSite(t)
	old := s.connectStubborn("half open")
	must(t, old.hello(sending(1, 10, 0)))
	c := s.connect("source")
	answered := later(func() error { return c.hello(sending(1, 11, 0)) }) // names nobody
	arrived(t, old.cut, "the older connection to be cut")
	must(t, s.records.Prepare(id(10)))
	old.end(false)
	wantRefusal(t, arrived(t, answered, "the hello to be answered"), nbd.RepErrPolicy, "does not name it")
	s.wantPrepared(id(10))
}

func TestHelloThatIsFencedWhileItWaitsIsRefused(t *testing.T) {
	s := newSite(t)
	old := s.connectStubborn("half open")
	must(t, old.hello(sending(1, 10, 0)))
	waits, joins := s.connect("waits"), s.connect("joins")
	first := later(func() error { return waits.hello(sending(1, 11, 0)) })
	arrived(t, old.cut, "the older connection to be cut")
	joined := later(func() error { return joins.hello(sending(1, 11, 0)) })
	eventually(t, "the connection to wait for its attempt", func() bool { return s.Status().Connections == 2 })
	newest := s.connect("newest")
	answered := later(func() error { return newest.hello(sending(1, 12, 0)) })
	if err := arrived(t, first, "the hello in between to be refused"); err == nil {
		t.Fatal("an attempt that was fenced was let in")
	}
	wantRefusal(t, arrived(t, joined, "who joins it to be refused"), nbd.RepErrPolicy, "over")
	pending(t, answered, "a hello was answered although the oldest connection has not ended")
	old.end(false)
	must(t, arrived(t, answered, "the newest hello to be answered"))
	must(t, newest.write(0, 12))
}

func TestHelloStopsWaitingWhenItsTimeIsOver(t *testing.T) {
	s := newSite(t)
	old := s.connectStubborn("half open")
	must(t, old.hello(sending(1, 10, 0)))

	c := s.connect("in a hurry")
	ctx, cancel := context.WithCancel(context.Background())
	answered := later(func() error { return c.helloContext(ctx, sending(1, 11, 0)) })
	arrived(t, old.cut, "the older connection to be cut")
	cancel()
	if err := arrived(t, answered, "the hello to be refused"); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	if st := s.Status(); st.Connections != 0 {
		t.Fatalf("a connection that was refused is taken for a sender: %+v", st)
	}
	s.refuses(sending(1, 11, 0), nbd.RepErrPolicy, "over") // it has begun, and fenced

	patient := s.connect("patient")
	answered = later(func() error { return patient.hello(sending(1, 12, 0)) })
	eventually(t, "the hello to wait", func() bool { return s.Status().ID == id(12) })
	s.Close()
	wantRefusal(t, arrived(t, answered, "the hello to be refused"), nbd.RepErrShutdown, "stops")
}

func TestAnotherSourceIsTurnedAwayWhileASenderIsConnected(t *testing.T) {
	s := newSite(t)
	c := s.sender("the sender", sending(1, 10, 0))
	must(t, c.write(0, 10))
	s.refuses(sending(2, 20, 0), nbd.RepErrPolicy, "the sender is sending")
	must(t, c.write(1, 10)) // and the sender does not notice
	if c.wasCut() {
		t.Fatal("a stranger has cut the sender")
	}
	c.end(true)
	must(t, s.sender("a stranger", sending(2, 21, 0)).write(0, 21))
}

func TestAnotherSourceWaitsForConnectionsThatWereCut(t *testing.T) {
	s := newSite(t)
	a := s.sender("first", sending(1, 10, 0))
	b := s.connectStubborn("second")
	must(t, b.hello(sending(1, 10, 0)))
	a.end(false) // which ends the attempt
	arrived(t, b.cut, "the other connection to be cut")
	c := s.connect("a stranger")
	answered := later(func() error { return c.hello(sending(2, 20, 0)) })
	pending(t, answered, "the hello was answered with an older connection alive")
	b.end(false)
	must(t, arrived(t, answered, "the hello to be answered"))
}

// Broken variant of the model: RECONNECTS.
func TestAttemptThatHasLostAConnectionIsOver(t *testing.T) {
	s := newSite(t)
	a := s.connectStubborn("first")
	must(t, a.hello(sending(1, 10, 0)))
	must(t, a.fill(10))
	b := s.sender("second", sending(1, 10, 0))
	b.end(false)
	arrived(t, a.cut, "the other connection to be cut")
	wantErrno(t, "data", a.write(0, 10), nbd.EPERM)
	wantErrno(t, "PREPARE", a.prepare(), nbd.EPERM)
	s.refuses(sending(1, 10, 0), nbd.RepErrPolicy, "can't be joined again")
	a.end(false)
	s.refuses(sending(1, 10, 0), nbd.RepErrPolicy, "can't be joined again")
	must(t, s.sender("source", sending(1, 11, 0)).write(0, 11))
	s.refuses(sending(1, 10, 0), nbd.RepErrPolicy, "can't be joined again")
	s.wantPrepared(owner.ID{})
}

func TestAttemptWhoseSendersHaveAllLeftIsOver(t *testing.T) {
	s := newSite(t)
	s.sender("source", sending(1, 10, 0)).end(true)
	s.refuses(sending(1, 10, 0), nbd.RepErrPolicy, "can't be joined again")
}

func TestConnectionForCommitDisturbsNobody(t *testing.T) {
	s := newSite(t)
	c := s.sender("source", sending(1, 10, 0))
	must(t, c.fill(10))
	other := s.connect("committer")
	must(t, other.hello(committing(id(9))))
	wantErrno(t, "COMMIT", other.commit(), nbd.EPERM)
	for what, do := range map[string]func(session.Sender) error{
		"a write": func(s session.Sender) error { return s.Begin(0, block) },
		"PREPARE": func(s session.Sender) error { return s.Prepare(context.Background()) },
		"ENTRUST": func(s session.Sender) error { return s.Entrust(context.Background()) },
	} {
		wantErrno(t, what+" on a connection for COMMIT", other.do(do), nbd.EPERM)
	}
	other.end(false) // nor does its loss
	if c.wasCut() {
		t.Fatal("the sender was cut")
	}
	must(t, c.prepare())
	s.wantPrepared(id(10))
}
