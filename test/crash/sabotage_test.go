// SPDX-License-Identifier: GPL-3.0-or-later

package crash

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/flexnbd/flexnbd/core/owner"
	"github.com/flexnbd/flexnbd/test/journal"
)

// Each of these breaks by hand what the program takes care of, and wants the judge to
// notice. A judge that is silent here would be silent in TestCrash.

// complains wants an error with these words in it.
func complains(t *testing.T, what string, err error, words string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), words) {
		t.Errorf("%s: the judge says %v, want %q", what, err, words)
	}
}

// abandon ends a scenario that was broken on purpose, without a judgement.
func (s *scenario) abandon() {
	s.t.Helper()
	s.stopLoad()
	if err := errors.Join(s.a.stop(), s.b.stop()); err != nil {
		s.t.Error(err)
	}
}

// Two servers of one disk, each with clients: an operator says --ignore-migrated
// although the destination is alive.
func TestTwoServersThatAcknowledgeAreNoticed(t *testing.T) {
	t.Parallel()
	s := begin(t, nil, nil)
	s.migrate(order{})
	s.a.ends(0)
	s.servedBy(s.b)
	s.a.start("serve", nil, "--ignore-migrated")
	o := s.options
	o.Servers = o.Servers[:1]
	o.Seed++
	stray, err := journal.NewLoad(s.disk, o)
	if err != nil {
		t.Fatal(err)
	}
	stray.Start()
	if err := stray.AwaitAcknowledged(within(t, patience), 100); err != nil {
		t.Error(err)
	}
	s.servedBy(s.b)
	if err := stray.AwaitMore(within(t, patience), 20); err != nil {
		t.Error(err)
	}
	if err := stray.Stop(within(t, patience)); err != nil {
		t.Error(err)
	}
	s.stopLoad()
	complains(t, "owners", s.oneOwner(s.b), "the disk is that of [A B]")
	complains(t, "servers", s.oneServer(s.b), "let in at")
	complains(t, "turns", s.turns([]string{s.a.addr, s.b.addr}), "took turns")
	complains(t, "history", s.history(s.b), "journal:")
	if err := errors.Join(s.a.stop(), s.b.stop()); err != nil {
		t.Error(err)
	}
}

// A write is lost: an older copy is put in the place of the one that was taken over.
func TestALostWriteIsNoticed(t *testing.T) {
	t.Parallel()
	s := newScenario(t, setup{})
	older, err := os.ReadFile(s.a.image)
	if err != nil {
		t.Fatal(err)
	}
	s.start(nil, faults{kills("destination-owned")})
	s.more(100)
	s.migrate(order{})
	s.b.dies()
	if err := os.WriteFile(s.b.image, older, 0o600); err != nil {
		t.Fatal(err)
	}
	s.b.restart()
	s.a.ends(0)
	s.servedBy(s.b)
	s.stopLoad()
	complains(t, "history", s.history(s.b), "journal:")
	if err := s.end(); err != nil {
		t.Error(err)
	}
}

// One sector is enough, and one bit of it.
func TestOneChangedBitIsNoticed(t *testing.T) {
	t.Parallel()
	s := begin(t, nil, nil)
	s.migrate(order{})
	s.a.ends(0)
	s.servedBy(s.b)
	s.stopLoad()
	if err := s.judge(s.b); err != nil {
		t.Errorf("before anything was broken: %v", err)
	}
	f, err := os.OpenFile(s.b.image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	off := s.disk.Size()/2 - 1
	_, err = f.ReadAt(b[:], off)
	b[0] ^= 1
	if _, writeErr := f.WriteAt(b[:], off); errors.Join(err, writeErr, f.Close()) != nil {
		t.Fatal(err, writeErr)
	}
	complains(t, "history", s.history(s.b), "the image holds")
	if err := s.end(); err != nil {
		t.Error(err)
	}
}

// The record of what was given away is removed, and the source serves again.
func TestARemovedDepartureIsNoticed(t *testing.T) {
	t.Parallel()
	s := begin(t, faults{kills("source-acknowledged")}, nil)
	s.migrate(order{})
	s.a.dies()
	if err := os.Remove(s.a.place().Migrated()); err != nil {
		t.Fatal(err)
	}
	s.a.serve()
	s.servedBy(s.b)
	complains(t, "owners", s.oneOwner(s.b), "the disk is that of [A B]")
	complains(t, "servers", s.oneServer(s.b), "let in at")
	s.abandon()
}

// The record that a copy is not whole is removed, and the destination serves.
func TestARemovedIncompleteIsNoticed(t *testing.T) {
	t.Parallel()
	s := begin(t, faults{kills("source-prepare-answered")}, nil)
	s.mayNotice = true
	s.migrate(order{})
	s.a.dies()
	s.b.kill()
	if err := os.Remove(s.b.place().Incomplete()); err != nil {
		t.Fatal(err)
	}
	s.b.serve()
	s.a.serve()
	s.servedBy(s.b)
	complains(t, "owners", s.oneOwner(s.a), "the disk is that of [A B]")
	complains(t, "servers", s.oneServer(s.a), "let in at")
	s.abandon()
}

// Nobody has the disk.
func TestALostDiskIsNoticed(t *testing.T) {
	t.Parallel()
	s := begin(t, faults{kills("source-committed")}, nil)
	s.migrate(order{})
	s.a.dies()
	complains(t, "owners", s.oneOwner(s.b), "the disk is that of []")
	complains(t, "servers", s.oneServer(s.b), "let in at []")
	if v := s.a.records().Verdict(); v != owner.VerdictDeparting {
		t.Errorf("the source is %v", v)
	}
	s.a.exits(0, "serve")
	s.finish(s.b)
}

// A client is thrown out by an access list, while the source has the disk.
func TestALostClientIsNoticed(t *testing.T) {
	t.Parallel()
	s := begin(t, nil, nil)
	s.migrate(order{speed: slow})
	s.copies()
	for _, list := range []string{"192.0.2.1", "127.0.0.0/8"} {
		if answer, err := s.a.ask("acl", list); err != nil || answer.Code != 0 {
			t.Fatalf("%+v, %v", answer, err)
		}
	}
	s.more(20)
	s.unlimited()
	s.a.ends(0)
	s.servedBy(s.b)
	s.stopLoad()
	complains(t, "clients", s.disturbed(), "lost their connections")
	complains(t, "everything", s.judge(s.b), "lost their connections")
	if err := s.end(); err != nil {
		t.Error(err)
	}
}

// Requests are held for longer than they may be.
func TestALongPauseIsNoticed(t *testing.T) {
	t.Parallel()
	s := newScenario(t, setup{maxPause: 100 * time.Millisecond})
	s.a.serve()
	s.startLoad()
	s.a.suspend()
	held, cancel := context.WithTimeout(t.Context(), s.maxPause+busy+time.Second)
	defer cancel()
	<-held.Done() // a pause is made of time
	s.a.resume()
	s.more(20)
	complains(t, "pauses", s.held(time.Now()), "has waited for")
	s.stopLoad()
	if err := s.a.stop(); err != nil {
		t.Error(err)
	}
}

// A process and a half-written record are left behind.
func TestLeftoversAreNoticed(t *testing.T) {
	t.Parallel()
	s := newScenario(t, setup{})
	s.b.listen()
	if n := len(processesIn(s.b.dir)); n < 3 { // the judge can see them
		t.Errorf("a server and its two plugins are %d processes", n)
	}
	if err := s.b.current().cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.b.dies()
	f, err := os.Create(filepath.Join(filepath.Dir(s.b.image), "image.INCOMPLETE.new"))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(f, "{")
	_ = f.Close()
	complains(t, "leftovers", s.leftovers(), "left behind")
	complains(t, "the end", s.end(), "left behind")
}
