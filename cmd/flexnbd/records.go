// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/flexnbd/flexnbd/core/owner"
)

// plan is what a server does with its disk, by its records.
type plan int

const (
	planNothing plan = iota
	planServe
	planListen
	planDepart // the disk was given away, and the new owner may not know it yet
)

func (p plan) String() string {
	if p == planListen {
		return "waiting for a disk"
	}
	return "serving"
}

// notOurs is an error about a disk that this server must not serve.
type notOurs struct{ error }

func (e notOurs) Unwrap() error { return e.error }

// openRecords opens the disk's records, once its lock is held, and makes the plan.
func (s *serving) openRecords() (plan, error) {
	place, err := s.place()
	if err != nil {
		s.recordsErr = err
		return s.planWithoutRecords(owner.State{}, err)
	}
	found, err := owner.Inspect(owner.Disk, place)
	if err != nil {
		return planNothing, err
	}
	if s.disk.ReadOnly {
		// Others may serve the disk too, and none of them may change its records.
		s.recordsErr = errors.New("a server with --read-only shares its disk with others, and cannot give it away")
		return s.plan(place, found)
	}
	s.records, err = owner.Open(owner.Disk, place)
	switch {
	case errors.Is(err, owner.ErrLocked):
		// It may have no other lock.
		return planNothing, fmt.Errorf("%w; if that is another disk, which its backend calls the same, tell them apart with --disk-id", err)
	case err != nil:
		s.recordsErr = err
		return s.planWithoutRecords(found, err)
	}
	if s.listen == nil && found.IsEmpty() {
		if err := s.records.Check(); err != nil {
			s.log.Warn("this disk cannot be migrated, since no records can be kept of it", "error", err)
		}
	}
	return s.plan(place, s.records.State())
}

// place is where the records are: beside a file, where whoever copies or moves it
// finds them, else in the state directory under a name that stays with the disk.
func (s *serving) place() (owner.Place, error) {
	if s.isFile() {
		return owner.Beside(s.options.File)
	}
	key := s.options.ID
	if key == "" {
		key = s.store.Info().Identity
	}
	if key == "" {
		key = s.backend.Name + ":" + s.disk.Location
	}
	dir, err := filepath.Abs(s.options.StateDir)
	return owner.InState(dir, key), err
}

// isFile says whether the disk is an image file.
func (s *serving) isFile() bool {
	st, err := os.Stat(s.options.File)
	return s.backend.Name == "file" && err == nil && st.Mode().IsRegular()
}

// planWithoutRecords serves a disk that never had records although there can be
// none, and does nothing else.
func (s *serving) planWithoutRecords(found owner.State, err error) (plan, error) {
	if s.listen != nil || !found.IsEmpty() {
		return planNothing, err
	}
	s.log.Warn("this disk cannot be migrated, since no records can be kept of it", "error", err)
	return planServe, nil
}

// plan is the table of MIGRATION.md: what a command does with the records that it
// finds.
func (s *serving) plan(place owner.Place, found owner.State) (plan, error) {
	verdict := found.Verdict()
	if s.listen == nil {
		return s.planToServe(place, found, verdict)
	}
	switch {
	case verdict == owner.VerdictDeparting:
		return planDepart, nil
	case verdict != owner.VerdictOwner || found.IsEmpty():
		return planListen, nil
	case s.listen.orServe && found.Received != nil:
		return planServe, nil
	case s.listen.overwrite:
		s.log.Warn("a copy that is the right one is given up, as --overwrite says", "file", s.options.File)
		return planListen, nil
	}
	return planNothing, notOurs{errors.New(found.Explain(place))}
}

func (s *serving) planToServe(place owner.Place, found owner.State, verdict owner.Verdict) (plan, error) {
	switch {
	case verdict == owner.VerdictOwner:
		return planServe, nil
	case verdict != owner.VerdictIncomplete && s.ignoreMigrated && s.records != nil:
		s.log.Warn("the disk was given away and is served all the same, as --ignore-migrated says: if the other server ever serves it too, data is lost",
			"id", found.Migrated.ID, "to", found.Migrated.To)
		return planServe, s.records.IgnoreDeparture()
	case verdict == owner.VerdictDeparting && s.records != nil:
		return planDepart, nil
	}
	return planNothing, notOurs{errors.New(found.Explain(place))}
}

// orDeparted explains why an image is missing that was removed after it had been
// given away.
func (s *serving) orDeparted(err error) error {
	if _, statErr := os.Stat(s.options.File); !errors.Is(statErr, fs.ErrNotExist) || s.backend.Name != "file" {
		return err
	}
	file := s.options.File
	if target, linkErr := os.Readlink(file); linkErr == nil { // to what was removed
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(file), target)
		}
		file = target
	}
	dir, dirErr := filepath.EvalSymlinks(filepath.Dir(file))
	if dirErr != nil {
		return err
	}
	place := owner.Place{Dir: dir, Name: filepath.Base(file)}
	found, inspectErr := owner.Inspect(owner.Disk, place)
	if inspectErr != nil || found.Migrated == nil {
		return err
	}
	return notOurs{fmt.Errorf("%w\n%s", err, found.Explain(place))}
}

// expect makes the records say that the disk is yet to come. From then on nobody
// serves it by mistake, whatever happens.
func (s *serving) expect() error {
	if err := s.records.Check(); err != nil {
		return err
	}
	return s.records.Expect()
}
