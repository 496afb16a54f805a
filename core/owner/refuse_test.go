// SPDX-License-Identifier: GPL-3.0-or-later

package owner_test

import (
	"errors"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/flexnbd/flexnbd/core/owner"
	"github.com/flexnbd/flexnbd/core/owner/crashfs"
)

// What the records do not allow is refused without touching a file.
func TestCallsOutOfOrderAreRefused(t *testing.T) {
	type op = func(*owner.Records) error
	prepare := func(id owner.ID) op { return func(r *owner.Records) error { return r.Prepare(id) } }
	takeOver := func(id owner.ID) op { return func(r *owner.Records) error { return r.TakeOver(id) } }
	intend := func(d owner.Departure) op { return func(r *owner.Records) error { return r.Intend(d) } }
	acked := departure(x)
	acked.Acknowledged = true
	for _, c := range []struct {
		name    string
		records files
		op      op
		want    string
	}{
		{"expect on what nobody acknowledged", files{".MIGRATED": migratedText}, (*owner.Records).Expect, "repeat COMMIT first"},
		{"prepare an owner", nil, prepare(x), "does not wait"},
		{"prepare for nothing", files{".INCOMPLETE": plainText}, prepare(owner.ID{}), "no id"},
		{"prepare over another id", files{".INCOMPLETE": preparedText}, prepare(old), "withdraw that first"},
		{"prepare beside .MIGRATED", files{".INCOMPLETE": plainText, ".MIGRATED": ackedText}, prepare(x), "Expect"},
		{"withdraw an owner", nil, (*owner.Records).Withdraw, "does not wait"},
		{"take over a plain copy", files{".INCOMPLETE": plainText}, takeOver(x), "not prepared"},
		{"take over with another id", files{".INCOMPLETE": preparedText}, takeOver(old), "prepared for " + x.String()},
		{"take over with no id", files{".INCOMPLETE": plainText}, takeOver(owner.ID{}), "not prepared"},
		{"take over beside .MIGRATED", files{".INCOMPLETE": preparedText, ".MIGRATED": ackedText}, takeOver(x), "Expect"},
		{"take over what was never here", files{".RECEIVED": receivedText}, takeOver(x), "does not wait"},
		{"take over what went on", files{".RECEIVED": receivedText, ".MIGRATED": ackedText}, takeOver(old), "does not wait"},
		{"intend an incomplete copy", files{".INCOMPLETE": plainText}, intend(departure(x)), "incomplete"},
		{"intend a departed copy", files{".MIGRATED": ackedText}, intend(departure(x)), "departed"},
		{"intend without an id", nil, intend(owner.Departure{To: toB}), "no migration id"},
		{"intend to nowhere", nil, intend(owner.Departure{ID: x}), "0 addresses"},
		{"intend what is acknowledged", nil, intend(acked), "Unconfirmed"},
		{"depart with an older .MIGRATED.next", files{".MIGRATED.next": nextText}, (*owner.Records).Depart, "call Intend first"},
		{"depart twice", files{".MIGRATED": migratedText}, (*owner.Records).Depart, "departing"},
		{"depart an incomplete copy", files{".INCOMPLETE": preparedText, ".MIGRATED.next": nextText}, (*owner.Records).Depart, "incomplete"},
		{"acknowledge nothing", nil, (*owner.Records).Acknowledge, "not given away"},
		{"ignore on an incomplete copy", files{".INCOMPLETE": plainText, ".MIGRATED": ackedText}, (*owner.Records).IgnoreDeparture, "incomplete"},
		{"forget what nobody acknowledged", files{".MIGRATED": migratedText}, (*owner.Records).Forget, "departing"},
	} {
		s := scene{place: beside, records: c.records}
		disk, r, err := s.open()
		if err != nil {
			t.Fatal(err)
		}
		before, done := describe(r.State()), len(disk.Ops())
		err = c.op(r)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "/srv/disk.img") {
			t.Errorf("%s: %v", c.name, err)
		}
		if len(disk.Ops()) != done || describe(r.State()) != before {
			t.Errorf("%s: something was done: %v", c.name, disk.Ops()[done:])
		}
	}
}

// An attempt ends with its error: the next has an id of its own.
func TestDepartAfterAnErrorNeedsAnotherIntend(t *testing.T) {
	disk, r, err := scene{place: beside}.open()
	if err == nil {
		err = r.Intend(departure(x))
	}
	if err != nil {
		t.Fatal(err)
	}
	disk.FailAt(0, syscall.EIO)
	if err := r.Depart(); err == nil || errors.Is(err, owner.ErrUncertain) {
		t.Fatalf("a rename that was not done returned %v", err)
	}
	if err := r.Depart(); err == nil || !strings.Contains(err.Error(), "call Intend first") {
		t.Errorf("Depart again returned %v", err)
	}
	if got := describe(r.State()); got != "next:11" {
		t.Errorf("there is %q", got)
	}
	if err := departAgain(r); err != nil {
		t.Error(err)
	}
}

// A temporary file that could not be removed is in nobody's way.
func TestCheckSurvivesItsOwnLeftOver(t *testing.T) {
	disk, r, err := scene{place: beside}.open()
	if err != nil {
		t.Fatal(err)
	}
	disk.FailAt(1, syscall.ENOSPC) // the write
	disk.FailAt(3, syscall.EIO)    // the removal after the close
	if err := r.Check(); !errors.Is(err, syscall.ENOSPC) || len(disk.Names("/srv")) != 1 {
		t.Fatalf("Check returned %v and left %q", err, disk.Names("/srv"))
	}
	if err := r.Check(); err != nil || len(disk.Names("/srv")) != 0 {
		t.Errorf("Check again returned %v and left %q", err, disk.Names("/srv"))
	}
}

// What is so already costs nothing.
func TestNothingIsWrittenForWhatIsSo(t *testing.T) {
	for _, c := range []struct {
		name    string
		records files
		op      func(*owner.Records) error
	}{
		{"expect", files{".INCOMPLETE": preparedText}, (*owner.Records).Expect},
		{"prepare", files{".INCOMPLETE": preparedText}, func(r *owner.Records) error { return r.Prepare(x) }},
		{"withdraw", files{".INCOMPLETE": touchedText}, (*owner.Records).Withdraw},
		{"take over", files{".RECEIVED": receivedText}, func(r *owner.Records) error { return r.TakeOver(old) }},
		{"acknowledge", files{".MIGRATED": ackedText}, (*owner.Records).Acknowledge},
		{"ignore", files{".MIGRATED.next": nextText}, (*owner.Records).IgnoreDeparture},
		{"forget", nil, (*owner.Records).Forget},
	} {
		disk, r, err := scene{place: beside, records: c.records}.open()
		if err != nil {
			t.Fatal(err)
		}
		done := len(disk.Ops())
		if err := c.op(r); err != nil || len(disk.Ops()) != done {
			t.Errorf("%s: %v, %v", c.name, err, disk.Ops()[done:])
		}
	}
}

func TestStateIsTheCallers(t *testing.T) {
	_, r, err := scene{place: beside, records: files{".MIGRATED": migratedText}}.open()
	if err != nil {
		t.Fatal(err)
	}
	s := r.State()
	s.Migrated.Acknowledged, s.Migrated.To[0].Port = true, 1
	if again := r.State().Migrated; again.Acknowledged || again.To[0].Port != 4777 {
		t.Errorf("the records became %+v", again)
	}
}

// Of a half that a power cut has left beside the other, one says nothing.
func TestHalfARenameSaysNothing(t *testing.T) {
	for want, records := range map[string]files{
		"incomplete:11": {".INCOMPLETE": preparedText, ".RECEIVED": preparedText},
		"migrated:11":   {".MIGRATED": migratedText, ".MIGRATED.next": migratedText},
	} {
		disk := crashfs.New()
		for suffix, text := range records {
			disk.WriteFile(beside.String()+suffix, []byte(text))
		}
		if s, err := owner.Inspect(disk, beside); err != nil || describe(s) != want {
			t.Errorf("Inspect finds %q, %v; want %q", describe(s), err, want)
		}
		if got, err := restart(disk, beside); err != nil || got != want || len(disk.Crash().Names("/srv")) != 1 {
			t.Errorf("Open finds %q, %v, and leaves %q; want %q", got, err, disk.Names("/srv"), want)
		}
	}
}

func TestManyMayAskAtOnce(t *testing.T) {
	disk, r, err := scene{place: beside, records: files{".INCOMPLETE": preparedText}}.open()
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if err := r.TakeOver(x); err != nil {
				t.Error(err)
			}
			if got := describe(r.State()); got != "received:11" {
				t.Errorf("after TakeOver there is %q", got)
			}
		})
	}
	all.Wait()
	renames := 0
	for _, op := range disk.Ops() {
		if op.Kind == crashfs.OpRename && op.To == beside.Received() {
			renames++
		}
	}
	if renames != 1 {
		t.Errorf("%d renames", renames)
	}
}
