// SPDX-License-Identifier: GPL-3.0-or-later

package owner

import (
	"errors"
	"io/fs"
	"path/filepath"

	"github.com/flexnbd/flexnbd/core/failpoint"
)

const (
	recordMode = 0o600 // an id that a destination is prepared for is a key to it
	dirMode    = 0o700
	probeSize  = 4 << 10 // more than a record has; a file system's block
)

// put makes data the durable contents of a record: whoever looks, also after a
// power cut, finds the old file or the new one. renamed: an error came so late
// that the new one may be there already.
func (r *Records) put(path string, data []byte) (renamed bool, err error) {
	if err := r.makeDir(); err != nil {
		return false, err
	}
	temporary := path + suffixTemporary
	if err := r.writeFile(temporary, data); err != nil {
		return false, failure("write migration record", path, err)
	}
	if err := r.fs.Rename(temporary, path); err != nil {
		_ = r.fs.Remove(temporary) // else Open removes it
		return true, failure("put in place migration record", path, err)
	}
	if err := failpoint.Hit("owner-renamed"); err != nil {
		return true, failure("put in place migration record", path, err)
	}
	return true, r.syncDir()
}

// writeFile makes a durable file, whose name is not durable yet.
func (r *Records) writeFile(path string, data []byte) (err error) {
	f, err := r.fs.Create(path, recordMode)
	if errors.Is(err, fs.ErrExist) { // what an error left over
		if err = r.fs.Remove(path); err == nil {
			f, err = r.fs.Create(path, recordMode)
		}
	}
	if err != nil {
		return err
	}
	if err = fill(f, data); err != nil {
		_ = r.fs.Remove(path) // else Open removes it
	}
	return err
}

func fill(f File, data []byte) error {
	_, err := f.Write(data)
	if err == nil {
		err = failpoint.Hit("owner-written")
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = failpoint.Hit("owner-synced")
	}
	return errors.Join(err, f.Close())
}

// syncDir makes durable what was renamed and removed.
func (r *Records) syncDir() error {
	if err := r.fs.SyncDir(r.place.Dir); err != nil {
		return failure("fsync directory", r.place.Dir, err)
	}
	if err := failpoint.Hit("owner-dir-synced"); err != nil {
		return failure("fsync directory", r.place.Dir, err)
	}
	return nil
}

// makeDir makes the state directory and whatever is missing above, durably, and
// takes its lock.
func (r *Records) makeDir() error {
	if r.made || !r.place.StateDir {
		return nil
	}
	if err := r.makeDirs(r.place.Dir); err != nil {
		return err
	}
	if r.lock == nil {
		if err := r.takeLock(); err != nil {
			return err
		}
		if now, err := readAll(r.fs, r.place); err != nil || !now.state.IsEmpty() {
			return errors.Join(err, r.refuse("begin to keep records", "another flexnbd has just written some there; start again"))
		}
	}
	r.made = true
	return nil
}

// makeDirs makes dir and what is missing above. Of what is there already the
// parent is fsynced: a process that made it may have been killed before its own
// fsync, and with a folder that vanishes go the records in it.
func (r *Records) makeDirs(dir string) error {
	parent := filepath.Dir(dir)
	err := r.fs.Mkdir(dir, dirMode)
	switch {
	case errors.Is(err, fs.ErrExist):
		return r.syncNameOf(dir)
	case errors.Is(err, fs.ErrNotExist) && parent != dir:
		if err := r.makeDirs(parent); err != nil {
			return err
		}
		err = r.fs.Mkdir(dir, dirMode)
	case err == nil:
		if err := r.syncNameOf(parent); err != nil {
			return errors.Join(err, r.fs.Remove(dir))
		}
	}
	if err != nil {
		return failure("make state directory", dir, err)
	}
	if err := r.fs.SyncDir(parent); err != nil {
		_ = r.fs.Remove(dir) // or a second fsync would succeed, having nothing to do
		return failure("fsync directory", parent, err)
	}
	return nil
}

// syncNameOf makes the name of a directory that is there durable. Who may not read
// its parent has not made it either.
func (r *Records) syncNameOf(dir string) error {
	parent := filepath.Dir(dir)
	if err := r.fs.SyncDir(parent); err != nil && !unable(err) {
		return failure("fsync directory", parent, err)
	}
	return nil
}

// takeLock holds the state directory's lock on this disk until Close. Where Open
// could not take it there was no directory, so there is nothing in it now, or
// another process was quicker.
func (r *Records) takeLock() error {
	if r.lock != nil || !r.place.StateDir {
		return nil
	}
	path := r.place.path(suffixLock)
	lock, err := r.fs.Lock(path)
	if err != nil {
		return failure("lock", path, err)
	}
	r.lock = lock
	return nil
}
