// SPDX-License-Identifier: GPL-3.0-or-later

package owner_test

import (
	"errors"
	"fmt"
	"strings"

	"github.com/flexnbd/flexnbd/core/owner"
	"github.com/flexnbd/flexnbd/core/owner/crashfs"
)

var (
	beside  = owner.Place{Dir: "/srv", Name: "disk.img"}
	inState = owner.InState("/var/lib/flexnbd", "wwid 1")

	x   = owner.ID{0: 0x11, 15: 1}
	old = owner.ID{0: 0x22, 15: 2}

	toB = []owner.Address{{Addr: "10.0.0.2", Port: 4777}, {Addr: "/run/b.sock"}}
)

// scene is one operation, on records that are there before it.
type scene struct {
	name  string
	place owner.Place
	// records are durable files, by what follows the image's name.
	records map[string]string
	// ready is done before, without faults.
	ready func(*owner.Records) error
	op    func(*owner.Records) error
	// before, between and after are the states, as describe says them, that the
	// operation may leave. A between goes on to the after.
	before, between, after string
	// halved is one more that it may leave after an fsync that failed.
	halved string
}

// What the files of the scenes hold. The releases to come must read them.
const (
	plainText    = `{"version":1,"kind":"destination","written":"2026-01-02T03:04:05Z"}`
	touchedText  = `{"version":1,"kind":"destination","touched":true,"written":"2026-01-02T03:04:05Z"}`
	preparedText = `{"version":1,"kind":"destination","prepared":"11000000000000000000000000000001","written":"2026-01-02T03:04:05Z"}`
	receivedText = `{"version":1,"kind":"destination","prepared":"22000000000000000000000000000002","written":"2026-01-02T03:04:05Z"}`
	nextText     = `{"version":1,"kind":"source","id":"22000000000000000000000000000002","to":[{"addr":"10.0.0.2","port":4777}],"unlink":false,"unconfirmed":false,"acknowledged":false,"written":"2026-01-02T03:04:05Z"}`
)

var (
	migratedText = strings.ReplaceAll(nextText, "22000000000000000000000000000002", x.String())
	ackedText    = strings.ReplaceAll(migratedText, `"acknowledged":false`, `"acknowledged":true`)
)

type files = map[string]string

func departure(id owner.ID) owner.Departure { return owner.Departure{ID: id, To: toB} }

var scenes = []scene{
	{name: "expect, first", place: beside,
		op: (*owner.Records).Expect, before: "", after: "incomplete"},
	{name: "withdraw before the first data", place: beside, records: files{".INCOMPLETE": plainText},
		op: (*owner.Records).Withdraw, before: "incomplete", after: "incomplete:touched"},
	{name: "retract", place: beside, ready: (*owner.Records).Expect,
		op: (*owner.Records).Retract, before: "incomplete", after: ""},
	{name: "retract over a right copy", place: beside, records: files{".RECEIVED": receivedText}, ready: (*owner.Records).Expect,
		op: (*owner.Records).Retract, before: "incomplete received:22", after: "received:22"},
	{name: "expect, first, state directory", place: inState,
		op: (*owner.Records).Expect, before: "", after: "incomplete"},
	{name: "expect, over the right copy", place: beside, records: files{".RECEIVED": receivedText},
		op: (*owner.Records).Expect, before: "received:22", after: "incomplete received:22"},
	{name: "expect, on the way back", place: beside, records: files{".RECEIVED": receivedText, ".MIGRATED": ackedText},
		op: (*owner.Records).Expect, before: "migrated:11:acknowledged received:22",
		between: "incomplete migrated:11:acknowledged received:22", after: "incomplete received:22"},
	{name: "expect, interrupted before", place: beside, records: files{".INCOMPLETE": preparedText, ".MIGRATED": migratedText},
		op: (*owner.Records).Expect, before: "incomplete:11 migrated:11", after: "incomplete:11"},
	{name: "prepare", place: beside, records: files{".INCOMPLETE": plainText},
		op: func(r *owner.Records) error { return r.Prepare(x) }, before: "incomplete", after: "incomplete:11"},
	{name: "withdraw", place: beside, records: files{".INCOMPLETE": preparedText},
		op: (*owner.Records).Withdraw, before: "incomplete:11", after: "incomplete:touched"},
	{name: "take over", place: beside, records: files{".INCOMPLETE": preparedText},
		op: func(r *owner.Records) error { return r.TakeOver(x) }, before: "incomplete:11", after: "received:11"},
	{name: "take over again", place: inState, records: files{".INCOMPLETE": preparedText, ".RECEIVED": receivedText},
		op: func(r *owner.Records) error { return r.TakeOver(x) }, before: "incomplete:11 received:22",
		halved: "incomplete:11", after: "received:11"},
	{name: "intend, first", place: inState,
		op: func(r *owner.Records) error { return r.Intend(departure(x)) }, before: "", after: "next:11"},
	{name: "intend, again", place: beside, records: files{".MIGRATED.next": nextText},
		op: func(r *owner.Records) error { return r.Intend(departure(x)) }, before: "next:22", after: "next:11"},
	{name: "depart", place: beside, records: files{".RECEIVED": receivedText},
		ready:  func(r *owner.Records) error { return r.Intend(departure(x)) },
		op:     func(r *owner.Records) error { return departAgain(r) },
		before: "next:11 received:22", after: "migrated:11 received:22"},
	{name: "acknowledge", place: beside, records: files{".MIGRATED": migratedText},
		op: (*owner.Records).Acknowledge, before: "migrated:11", after: "migrated:11:acknowledged"},
	{name: "ignore", place: beside, records: files{".MIGRATED": ackedText, ".RECEIVED": receivedText},
		op:     (*owner.Records).IgnoreDeparture,
		before: "migrated:11:acknowledged received:22", after: "next:11:acknowledged received:22"},
	{name: "forget", place: beside, records: files{".MIGRATED": ackedText, ".RECEIVED": receivedText},
		op: (*owner.Records).Forget, before: "migrated:11:acknowledged received:22",
		between: "migrated:11:acknowledged", after: ""},
}

// departAgain is Depart, after an Intend where an error has made one necessary: a
// retry is a new attempt.
func departAgain(r *owner.Records) error {
	err := r.Depart()
	if err != nil && strings.Contains(err.Error(), "call Intend first") {
		if err = r.Intend(departure(x)); err == nil {
			err = r.Depart()
		}
	}
	return err
}

// allows says whether an interrupted operation may leave this state.
func (s scene) allows(state string) bool {
	return state == s.before || state == s.after || s.between != "" && state == s.between
}

// open makes the disk and the records as they are before the operation.
func (s scene) open() (*crashfs.FS, *owner.Records, error) {
	disk := crashfs.New()
	disk.MkdirAll("/srv")
	disk.MkdirAll("/var")
	for suffix, text := range s.records {
		disk.WriteFile(s.place.String()+suffix, []byte(text))
	}
	r, err := owner.Open(disk, s.place)
	if err == nil && s.ready != nil {
		err = s.ready(r)
	}
	return disk, r, err
}

// length is how many operations of the file system the scene's has.
func (s scene) length() (int, error) {
	disk, r, err := s.open()
	if err != nil {
		return 0, err
	}
	before := len(disk.Ops())
	err = s.op(r)
	return len(disk.Ops()) - before, err
}

// describe says what records say, but for the times.
func describe(s owner.State) string {
	var parts []string
	if i := s.Incomplete; i != nil {
		text := "incomplete" + tag(i.Prepared)
		if i.Touched && i.Prepared.IsZero() {
			text += ":touched"
		}
		parts = append(parts, text)
	}
	if m := s.Migrated; m != nil {
		parts = append(parts, departed("migrated", m))
	}
	if n := s.Next; n != nil {
		parts = append(parts, departed("next", n))
	}
	if r := s.Received; r != nil {
		parts = append(parts, "received"+tag(r.ID))
	}
	return strings.Join(parts, " ")
}

func departed(name string, d *owner.Departure) string {
	text := name + tag(d.ID)
	if d.Acknowledged {
		text += ":acknowledged"
	}
	return text
}

func tag(id owner.ID) string {
	if id.IsZero() {
		return ""
	}
	return fmt.Sprintf(":%x", id[:1])
}

// restart is a new process on what a crash left.
func restart(disk owner.FS, p owner.Place) (string, error) {
	r, err := owner.Open(disk, p)
	if err != nil {
		return "", err
	}
	return describe(r.State()), r.Close()
}

// afterPowerCut says what a new process finds after each power cut, and wants each
// to be among the allowed.
func afterPowerCut(disk *crashfs.FS, p owner.Place, allowed func(string) bool) error {
	var wrong error
	for after := range disk.Crashes(most, 1) {
		got, err := restart(after, p)
		if err == nil && !allowed(got) {
			err = fmt.Errorf("a power cut leaves %q", got)
		}
		wrong = errors.Join(wrong, err)
		if wrong != nil {
			break
		}
	}
	return wrong
}

// most power cuts are looked at after each step: all, but where Open writes several
// records at once.
const most = 300

func only(want string) func(string) bool { return func(got string) bool { return got == want } }
