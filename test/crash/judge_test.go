// SPDX-License-Identifier: GPL-3.0-or-later

package crash

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/flexnbd/flexnbd/core/owner"
)

// judge says what of what must hold does not, once everything has settled and the
// clients have stopped. want is the machine that has to have the disk.
func (s *scenario) judge(want *machine) error {
	turns := []string{s.a.addr}
	if want == s.b && s.b.address() != s.a.addr {
		turns = append(turns, s.b.address())
	}
	return errors.Join(s.oneOwner(want), s.oneServer(want), s.history(want), s.turns(turns), s.disturbed(), s.leftovers())
}

// oneOwner applies the operator's rule to the records: an image with neither
// .INCOMPLETE nor .MIGRATED beside it is the right one, and there is one.
func (s *scenario) oneOwner(want *machine) error {
	var owners []string
	for _, m := range []*machine{s.a, s.b} {
		state, err := owner.Inspect(owner.Disk, m.place())
		if err != nil {
			return err
		}
		if m.hasImage() && state.Verdict() == owner.VerdictOwner {
			owners = append(owners, m.name)
		}
	}
	if !slices.Equal(owners, []string{want.name}) {
		return fmt.Errorf("by the records the disk is that of %v, want %s alone", owners, want.name)
	}
	return nil
}

// oneServer checks that one server lets clients in, the owner's.
func (s *scenario) oneServer(want *machine) error {
	home := want.address()
	if want == s.a {
		home = s.a.addr
	}
	addresses := []string{s.a.addr, s.b.addr, s.b.address()}
	slices.Sort(addresses)
	var open []string
	for _, addr := range slices.Compact(addresses) {
		if lets(addr) {
			open = append(open, addr)
		}
	}
	if !slices.Equal(open, []string{home}) {
		return fmt.Errorf("clients are let in at %v, want %s alone", open, home)
	}
	for _, m := range []*machine{s.a, s.b} {
		if !m.runs() {
			continue
		}
		if status, _ := m.status(); (status["has_control"] == "true") != (m == want) {
			return fmt.Errorf("%s has has_control=%s, and the owner is %s", m.name, status["has_control"], want.name)
		}
	}
	return nil
}

// checkTime bounds the judgement of a history.
const checkTime = 5 * time.Minute

// history checks what clients have seen on all servers, and what is left in the end.
func (s *scenario) history(want *machine) error {
	f, err := os.Open(want.image)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), checkTime)
	defer cancel()
	report, err := s.disk.Check(ctx, f)
	if err == nil && report.Requests == 0 {
		err = errors.New("no request was answered")
	}
	return err
}

// turns checks who has answered requests, one server after the other.
func (s *scenario) turns(want []string) error {
	if got := s.disk.Served(); !slices.Equal(got, want) {
		return fmt.Errorf("the servers took turns as %v, want %v", got, want)
	}
	return nil
}

// disturbed says whether a client has lost its connection to a source that had the
// disk.
func (s *scenario) disturbed() error {
	if s.mayNotice {
		return nil
	}
	if broken := s.load.BreaksBefore(time.Unix(0, s.sure.Load())); len(broken) > 0 {
		return fmt.Errorf("clients have lost their connections while the source had the disk: %v", broken)
	}
	return nil
}

// leftovers says whether a record was left half-written.
func (s *scenario) leftovers() error {
	found, err := filepath.Glob(filepath.Join(s.dir, "*", "*.new"))
	if err == nil && len(found) > 0 {
		err = fmt.Errorf("left behind: %v", found)
	}
	return err
}

// end stops both machines as an operator does, and checks that nothing of them is
// left.
func (s *scenario) end() error {
	errs := []error{s.a.stop(), s.b.stop()}
	for _, m := range []*machine{s.a, s.b} {
		if !soon(func() bool { return len(processesIn(m.dir)) == 0 }) {
			errs = append(errs, fmt.Errorf("%s has left processes behind: %v", m.name, processesIn(m.dir)))
		}
	}
	return errors.Join(append(errs, s.leftovers())...)
}
