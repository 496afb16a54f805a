// SPDX-License-Identifier: GPL-3.0-or-later

package owner

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
)

// found is what the records of a place say, the bytes they say it with, and the
// paths of those that say nothing.
type found struct {
	state  State
	files  []foundFile
	undone []string
}

type foundFile struct {
	path string
	data []byte
}

// Inspect reads the records and changes nothing. What it finds may be undone by a
// power cut, so it is for showing; who acts on records uses [Open]. A place that is
// not there has none.
func Inspect(fs FS, p Place) (State, error) {
	f, err := readAll(fs, p)
	return f.state, err
}

func readAll(fs FS, p Place) (f found, err error) {
	read := func(path string, decode func([]byte) error) {
		if err == nil {
			err = f.read(fs, path, decode)
		}
	}
	read(p.Incomplete(), func(data []byte) (err error) { f.state.Incomplete, err = decodeIncomplete(data); return })
	read(p.Migrated(), func(data []byte) (err error) { f.state.Migrated, err = decodeDeparture(data); return })
	read(p.Next(), func(data []byte) (err error) { f.state.Next, err = decodeDeparture(data); return })
	read(p.Received(), func(data []byte) (err error) { f.state.Received, err = decodeReceived(data); return })
	if err != nil {
		return found{}, err
	}
	f.leaveOut(p)
	return f, nil
}

// leaveOut takes out records that a rename has made and a power cut has undone by
// half: the one that the rename took away is back. The one that goes
// before the other stands, so that .RECEIVED does not say that something was taken over which is only prepared.
func (f *found) leaveOut(p Place) {
	s := &f.state
	if s.Incomplete != nil && s.Received != nil && s.Incomplete.Prepared == s.Received.ID {
		s.Received = nil
		f.undo(p.Received())
	}
	if s.Migrated != nil && s.Next != nil && s.Migrated.ID == s.Next.ID {
		s.Next = nil // .MIGRATED may be the newer; it goes before in any case
		f.undo(p.Next())
	}
}

func (f *found) undo(path string) {
	f.undone = append(f.undone, path)
	f.files = slices.DeleteFunc(f.files, func(g foundFile) bool { return g.path == path })
}

func (f *found) read(from FS, path string, decode func([]byte) error) error {
	data, err := from.ReadFile(path, maxRecord)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, ErrIrregular), errors.Is(err, ErrTooLarge):
		return fmt.Errorf("%w: it has the name of a migration record and is none. "+
			"Nothing is done with this disk until it is clear what that is; move it away if it is not flexnbd's", err)
	case err != nil:
		return failure("read migration record", path, err)
	}
	if err := decode(data); err != nil {
		return fmt.Errorf("migration record %s cannot be understood: %w. "+
			"It decides whether this copy of the disk may be used, so nothing is done and nothing removed. "+
			"Find out from the other machine which copy is the right one before you move the file away", path, err)
	}
	f.files = append(f.files, foundFile{path, data})
	return nil
}
