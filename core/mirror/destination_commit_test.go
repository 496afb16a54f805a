// SPDX-License-Identifier: GPL-3.0-or-later

package mirror

import (
	"errors"
	"strings"
	"syscall"
	"testing"

	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/core/owner"
)

// Broken variant of the model: ACK_BEFORE_DURABLE.
func TestCommitIsAcknowledgedWhenItIsDurable(t *testing.T) {
	s := newSite(t)
	s.prepare(sending(1, 10, 0))
	s.wantWaiting()
	must(t, s.sendCommit(id(10)))
	s.wantOwner(id(10))
	s.powerCut()
	s.start(func(c *DestinationConfig) { c.Waiting = false }) // listen --or-serve
	if !wholly(s.disk.content(), 10) {
		t.Fatal("the disk that was taken over is not the one that was sent")
	}
	must(t, s.sendCommit(id(10)))
}

// Broken variants of the model: COMMIT_ANY_ID, BLIND_ACK.
func TestCommitOfAnotherIDIsRefused(t *testing.T) {
	s := newSite(t)
	wantErrno(t, "COMMIT to who is not prepared", s.sendCommit(id(9)), nbd.EPERM)
	c := s.sender("source", sending(1, 10, 0))
	must(t, c.fill(10))
	wantErrno(t, "COMMIT before PREPARE", s.sendCommit(id(10)), nbd.EPERM)
	must(t, c.prepare())
	wantErrno(t, "COMMIT of another migration", s.sendCommit(id(9)), nbd.EPERM)
	s.wantWaiting()
	s.wantPrepared(id(10))
	if c.wasCut() {
		t.Fatal("a COMMIT that was refused has cut the sender")
	}
	must(t, s.sendCommit(id(10)))
	wantErrno(t, "COMMIT of another migration to the owner", s.sendCommit(id(9)), nbd.EPERM)

	own := newMachine(t)
	own.start(func(c *DestinationConfig) { c.Waiting = false })
	wantErrno(t, "COMMIT to an owner that received nothing", own.sendCommit(id(9)), nbd.EPERM)
}

func TestCommitIsAcknowledgedHoweverOftenItComes(t *testing.T) {
	s := newSite(t)
	s.prepare(sending(1, 10, 0))
	for range 3 {
		must(t, s.sendCommit(id(10)))
	}
	s.Serving(true)
	must(t, s.sendCommit(id(10)))
	s.stop()
	s.start(nil) // listen --overwrite: waits again, and remembers
	must(t, s.sendCommit(id(10)))
	s.wantWaiting()
	s.refuses(sending(1, 10, 0), nbd.RepErrPolicy, "has been completed")
}

func TestCommitsAtTheSameTimeTakeOverOnce(t *testing.T) {
	s := newSite(t)
	s.prepare(sending(1, 10, 0))
	var done []<-chan error
	for range 8 {
		c := s.connect("committer")
		must(t, c.hello(committing(id(10))))
		done = append(done, later(c.commit))
	}
	for _, d := range done {
		must(t, arrived(t, d, "an acknowledgement"))
	}
	s.wantOwner(id(10))
}

func TestCommitIsNotKeptWaitingBySenders(t *testing.T) {
	s := newSite(t)
	prepared := s.connectStubborn("half open")
	must(t, prepared.hello(sending(1, 10, 0)))
	must(t, prepared.fill(10))
	must(t, prepared.prepare())
	next := s.connect("next attempt, waiting for the first")
	refused := later(func() error { return next.hello(sending(1, 11, 10)) })
	arrived(t, prepared.cut, "the older connection to be cut")

	must(t, s.sendCommit(id(10)))
	s.wantOwner(id(10))
	if arrived(t, refused, "the hello to be refused") == nil {
		t.Fatal("an owner has let a sender in")
	}
	wantErrno(t, "late data", prepared.write(0, 11), nbd.EPERM)
	wantErrno(t, "a late PREPARE", prepared.prepare(), nbd.EPERM)
	prepared.end(false)
	s.wantOwner(id(10))
	if !wholly(s.disk.content(), 10) {
		t.Fatal("late data has landed on a disk that was taken over")
	}
}

func TestCommitCutsASenderThatIsOpen(t *testing.T) {
	s := newSite(t)
	s.prepare(sending(1, 10, 0)).end(true)
	c := s.connectStubborn("next attempt")
	must(t, c.hello(sending(1, 11, 10)))
	must(t, s.sendCommit(id(10)))
	arrived(t, c.cut, "the sender to be cut")
	wantErrno(t, "data", c.write(0, 11), nbd.EPERM)
	s.wantOwner(id(10))
}

func TestTakeOverThatMayNotLastIsNotAcknowledged(t *testing.T) {
	s := newSite(t)
	s.prepare(sending(1, 10, 0))
	s.hooks.hook(func() { s.hooks.onSync = func() error { return syscall.EIO } })
	wantErrno(t, "COMMIT", s.sendCommit(id(10)), nbd.EIO)
	if err := arrived(t, s.Fatal(), "the process to be told to end"); !errors.Is(err, owner.ErrUncertain) {
		t.Fatalf("Fatal says %v", err)
	}
	s.hooks.hook(func() { s.hooks.onSync = nil })
	wantErrno(t, "a second COMMIT", s.sendCommit(id(10)), nbd.EIO)
	s.refuses(sending(1, 11, 10), nbd.RepErrPolicy, "stops")
	if err := s.Promote(id(10)); err == nil {
		t.Fatal("promoted")
	}
	select {
	case <-s.Owned():
		t.Fatal("Owned is closed")
	default:
	}
	s.Serving(true)
	if s.Guest() == "" || s.HasControl() {
		t.Fatal("the disk is served")
	}
	if st := s.Status(); st.State != DestinationUncertain || st.Serving {
		t.Fatalf("status %+v", st)
	}
	s.powerCut() // nothing was durable: prepared, and COMMIT is repeated
	s.start(nil)
	s.wantPrepared(id(10))
	must(t, s.sendCommit(id(10)))
	s.wantOwner(id(10))
}

func TestTakeOverWhoseRenameFailsCanBeRepeated(t *testing.T) {
	s := newSite(t)
	s.prepare(sending(1, 10, 0))
	s.hooks.hook(func() { s.hooks.onRename = func(string) error { return syscall.ENOSPC } })
	wantErrno(t, "COMMIT", s.sendCommit(id(10)), nbd.ENOSPC)
	s.hooks.hook(func() { s.hooks.onRename = nil })
	s.wantWaiting()
	s.wantPrepared(id(10))
	must(t, s.sendCommit(id(10)))
	s.wantOwner(id(10))
}

func TestGuestsAreToldWhatToDo(t *testing.T) {
	s := newSite(t)
	guest := func(want string) {
		t.Helper()
		if got := s.Guest(); !strings.Contains(got, want) {
			t.Fatalf("a guest is told %q, want %q in it", got, want)
		}
	}
	guest("waits for a disk")
	s.prepare(sending(1, 10, 0))
	guest("waits for its source")
	must(t, s.sendCommit(id(10)))
	guest("192.0.2.7:4777")
	if s.Status().Serving {
		t.Fatal("serving before Serving")
	}
	s.Serving(true)
	if why := s.Guest(); why != "" {
		t.Fatalf("a guest of a serving server is told %q", why)
	}
}

func TestPromoteTakesOverWithoutTheSource(t *testing.T) {
	s := newSite(t)
	promote := func(id owner.ID, want error) {
		t.Helper()
		if err := s.Promote(id); !errors.Is(err, want) {
			t.Fatalf("got %v, want %v", err, want)
		}
	}
	promote(id(10), ErrNotPrepared)
	c := s.sender("source", sending(1, 10, 0))
	must(t, c.fill(10))
	promote(id(10), ErrNotPrepared)
	must(t, c.prepare())
	promote(id(10), ErrSourceConnected)
	c.end(false)
	promote(id(9), ErrWrongID)
	promote(owner.ID{}, ErrWrongID)
	s.wantWaiting()
	promote(id(10), nil)
	s.wantOwner(id(10))
	promote(id(10), nil)
	promote(id(9), ErrNotPrepared)
	must(t, s.sendCommit(id(10))) // should the source be alive after all, it can end
}

func TestStatusFollowsTheMigration(t *testing.T) {
	s := newSite(t)
	want := func(state DestinationState, sender string, connections int, id owner.ID, bytes int64) {
		t.Helper()
		got := s.Status()
		got.LastSender, got.Serving = s.lastSender, false
		if (got != DestinationStatus{State: state, Sender: sender, Connections: connections, ID: id, BytesReceived: bytes, LastSender: s.lastSender}) {
			t.Fatalf("status %+v", got)
		}
	}
	want(DestinationWaiting, "", 0, owner.ID{}, 0)
	if !s.Status().LastSender.IsZero() {
		t.Fatal("a sender was seen before the first")
	}
	c := s.sender("source", sending(1, 10, 0))
	want(DestinationReceiving, "source", 1, id(10), 0)
	must(t, c.fill(10))
	want(DestinationReceiving, "source", 1, id(10), diskSize)
	must(t, c.prepare())
	want(DestinationPrepared, "source", 1, id(10), diskSize)
	c.end(true)
	want(DestinationPrepared, "", 0, id(10), diskSize)
	c = s.sender("source again", sending(1, 11, 10))
	want(DestinationPrepared, "source again", 1, id(10), 0)
	must(t, c.write(0, 11))
	want(DestinationReceiving, "source again", 1, id(11), block)
	c.end(false)
	want(DestinationWaiting, "", 0, owner.ID{}, block)
	if s.Status().LastSender.IsZero() {
		t.Fatal("no time of the last sender")
	}
	s.prepare(sending(1, 12, 11))
	must(t, s.sendCommit(id(12)))
	want(DestinationOwner, "", 0, id(12), diskSize)
	if s.Serving(true); !s.Status().Serving {
		t.Fatal("not serving after Serving")
	}
}
