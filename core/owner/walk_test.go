// SPDX-License-Identifier: GPL-3.0-or-later

package owner_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"

	"github.com/flexnbd/flexnbd/core/owner"
	"github.com/flexnbd/flexnbd/core/owner/crashfs"
)

// The walk drives the records of two machines through hand-overs, there and back,
// with power cuts, kills, errors and lost messages at any step, by the table in the
// design: what each command does on what it finds. Nothing of a real migration is
// here but the order in which records change.

// walks is how many walks each test takes; a thousand of them pass, too.
const walks = 20

// mode is what the process on a machine does.
type mode int

const (
	down       mode = iota // no process
	serving                // accepts writes
	listening              // waits for a sender
	committing             // gave the disk away, repeats COMMIT
)

// copyOf is what an image holds: the last write in it, or a part of a copy.
type copyOf struct {
	version int
	torn    bool
}

type machine struct {
	name    string
	disk    *crashfs.FS
	records *owner.Records
	mode    mode
	image   copyOf
}

type walk struct {
	rand     *rand.Rand
	machines [2]*machine
	writes   int // acknowledged ones: the version of the right image
	faults   int // still to come
	handed   int // hand-overs that came to their end
	log      []string
}

// broken is a rule that does not hold any more.
type broken struct{ error }

func newWalk(seed uint64, prepare func(*crashfs.FS)) *walk {
	w := &walk{rand: rand.New(rand.NewPCG(seed, 7)), faults: 4}
	for i, name := range []string{"A", "B"} {
		disk := crashfs.New()
		disk.MkdirAll("/srv")
		w.machines[i] = &machine{name: name, disk: disk}
	}
	w.machines[1].disk.WriteFile(beside.Incomplete(), []byte(plainText)) // B's first listen
	w.machines[1].image.torn = true
	for _, m := range w.machines {
		prepare(m.disk)
	}
	return w
}

// on does something with a machine's records, with a fault in it now and then. It
// is false if the process has ended by that.
func (w *walk) on(m *machine, what string, do func() error) (bool, error) {
	cut := false
	if w.faults > 0 && w.rand.IntN(6) == 0 {
		w.faults--
		switch n := w.rand.IntN(12); w.rand.IntN(3) {
		case 0:
			m.disk.FailAt(n, syscall.EIO)
		case 1:
			m.disk.FailDoneAt(n, syscall.EIO)
		default:
			m.disk.StopAt(n)
			cut = true
		}
	}
	err := do()
	w.log = append(w.log, fmt.Sprintf("%s: %s: %v", m.name, what, err))
	switch {
	case cut || m.disk.Stopped():
		w.end(m)
		return false, nil
	case errors.Is(err, owner.ErrUncertain):
		w.end(m) // exit 1
		return false, nil
	}
	return true, err
}

// end is the end of a process: killed, or with the power.
func (w *walk) end(m *machine) {
	how := "killed"
	if w.rand.IntN(2) == 0 {
		m.disk = m.disk.Kill()
	} else {
		how = "power cut"
		m.disk = m.disk.CrashSeed(w.rand.Uint64())
	}
	m.mode, m.records = down, nil
	w.log = append(w.log, fmt.Sprintf("%s: %s, there is %v", m.name, how, m.disk.Names("/srv")))
}

// start runs serve, listen or listen --or-serve, whichever the records allow.
func (w *walk) start(m *machine) error {
	var r *owner.Records
	up, err := w.on(m, "open", func() (err error) { r, err = owner.Open(m.disk, beside); return err })
	if !up {
		return nil
	}
	if err != nil {
		if strings.Contains(err.Error(), "understood") {
			return broken{err}
		}
		return nil // and again
	}
	m.records = r
	switch v := r.State().Verdict(); {
	case v == owner.VerdictOwner:
		m.mode = serving
	case v == owner.VerdictDeparting:
		m.mode = committing
	case v == owner.VerdictDeparted && w.other(m).mode != serving:
		return nil // the way back is for an operator who sees the other serve
	default:
		if up, err := w.on(m, "expect", r.Expect); !up || err != nil {
			m.mode = down
			return nil
		}
		m.mode = listening
		if r.State().Incomplete.Prepared.IsZero() {
			m.image.torn = true
		}
	}
	return nil
}

func (w *walk) other(m *machine) *machine {
	if m == w.machines[0] {
		return w.machines[1]
	}
	return w.machines[0]
}

// migrate is one attempt, up to the commit point.
func (w *walk) migrate(a, b *machine) error {
	id := owner.NewID()
	if p := b.records.State().Incomplete.Prepared; !p.IsZero() {
		if next := a.records.State().Next; next == nil || next.ID != p {
			return broken{fmt.Errorf("%s is prepared for %v, which %s may not replace", b.name, p, a.name)}
		}
	}
	// The first data.
	if up, err := w.on(b, "withdraw", b.records.Withdraw); !up || err != nil {
		return nil
	}
	b.image.torn = true
	d := owner.Departure{ID: id, To: toB}
	if up, err := w.on(a, "intend", func() error { return a.records.Intend(d) }); !up || err != nil {
		return nil
	}
	w.write(a)
	if w.rand.IntN(8) == 0 {
		return nil // break, or the connection is lost
	}
	// Held, drained, flushed.
	b.image = a.image
	up, err := w.on(b, "prepare", func() error { return b.records.Prepare(id) })
	if !up || err != nil || w.rand.IntN(8) == 0 {
		w.write(a) // the gate opens
		return nil
	}
	up, err = w.on(a, "depart", a.records.Depart)
	switch {
	case !up:
	case err != nil:
		w.write(a)
	default:
		a.mode = committing
	}
	return nil
}

// commit is one COMMIT of a, answered or not.
func (w *walk) commit(a, b *machine) error {
	id := a.records.State().Migrated.ID
	s := b.records.State()
	switch {
	case b.mode == serving && s.Received != nil && s.Received.ID == id:
	case b.mode == listening && s.Incomplete.Prepared == id:
		up, err := w.on(b, "take over", func() error { return b.records.TakeOver(id) })
		if !up || err != nil {
			return nil
		}
		b.mode = serving
		w.handed++
	default:
		return broken{fmt.Errorf("%s refuses the COMMIT of its own disk", b.name)}
	}
	if w.rand.IntN(4) == 0 {
		return nil // the acknowledgement is lost
	}
	if up, err := w.on(a, "acknowledge", a.records.Acknowledge); up && err == nil {
		a.mode, a.records = down, nil
	}
	return nil
}

func (w *walk) write(m *machine) {
	if m.mode == serving && w.rand.IntN(2) == 0 {
		w.writes++
		m.image.version = w.writes
	}
}

// step does one thing that can happen now.
func (w *walk) step() error {
	m := w.machines[w.rand.IntN(2)]
	o := w.other(m)
	switch {
	case m.mode == down:
		return w.start(m)
	case w.faults > 0 && w.rand.IntN(10) == 0:
		w.faults--
		w.end(m)
	case m.mode == serving && o.mode == listening:
		return w.migrate(m, o)
	case m.mode == serving:
		w.write(m)
	case m.mode == committing && o.mode != down:
		return w.commit(m, o)
	}
	return nil
}

// check holds after every step: never two owners, and who serves has all writes.
func (w *walk) check() error {
	for _, m := range w.machines {
		if m.mode != serving {
			continue
		}
		if w.other(m).mode == serving {
			return broken{errors.New("both serve")}
		}
		if m.image != (copyOf{version: w.writes}) {
			return broken{fmt.Errorf("%s serves %+v, and there are %d writes", m.name, m.image, w.writes)}
		}
	}
	return w.rule()
}

// rule is the operator's: both machines lose power now, somebody reads the records.
func (w *walk) rule() error {
	var clean, left []*machine
	var states [2]owner.State
	for i, m := range w.machines {
		s, err := owner.Inspect(m.disk.CrashSeed(w.rand.Uint64()), beside)
		if err != nil {
			return broken{err}
		}
		states[i] = s
		switch {
		case s.Incomplete == nil && s.Migrated == nil:
			clean = append(clean, m)
		case s.Incomplete == nil:
			left = append(left, m)
		}
	}
	right := clean
	if len(clean) == 0 && len(left) == 1 {
		right = []*machine{w.other(left[0])} // where .MIGRATED leads
	}
	switch {
	case len(right) != 1:
		return broken{fmt.Errorf("the rule names %d images: %q, %q", len(right), describe(states[0]), describe(states[1]))}
	case right[0].image != copyOf{version: w.writes}:
		return broken{fmt.Errorf("the rule names %s, which holds %+v of %d writes", right[0].name, right[0].image, w.writes)}
	}
	return nil
}

// run goes on until the faults are used up and one serves, and says what broke.
func (w *walk) run() error {
	for range 150 {
		if err := errors.Join(w.step(), w.check()); err != nil {
			return err
		}
	}
	// Nothing more goes wrong: it comes to rest with one that serves.
	w.faults = 0
	for range 150 {
		if err := errors.Join(w.step(), w.check()); err != nil {
			return err
		}
		for _, m := range w.machines {
			if m.mode == serving && w.handed > 0 {
				return nil
			}
		}
	}
	return broken{errors.New("nobody serves in the end")}
}

func TestHandOversThereAndBackSurviveWhateverHappens(t *testing.T) {
	t.Parallel()
	handed := 0
	for seed := range uint64(walks) {
		w := newWalk(seed, func(*crashfs.FS) {})
		if err := w.run(); err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, strings.Join(w.log, "\n"))
		}
		handed += w.handed
	}
	t.Logf("%d hand-overs", handed)
	if handed < 10*walks {
		t.Errorf("only %d hand-overs came to their end", handed)
	}
}

// The walk sees what is missing: it breaks without fsyncs of one kind or the other.
func TestWalkBreaksWithoutFsync(t *testing.T) {
	for name, without := range map[string]func(*crashfs.FS){
		"files": (*crashfs.FS).IgnoreFileSync, "directories": (*crashfs.FS).IgnoreDirSync,
	} {
		wrong := 0
		for seed := range uint64(walks) {
			var b broken
			if err := newWalk(seed, without).run(); errors.As(err, &b) {
				wrong++
			}
		}
		if wrong < walks/5 {
			t.Errorf("without fsyncs of %s %d walks of %d broke", name, wrong, walks)
		}
	}
}
