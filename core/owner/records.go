// SPDX-License-Identifier: GPL-3.0-or-later

package owner

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"sync/atomic"
)

// ErrUncertain is wrapped by errors after which nobody knows who will own the disk
// after a power cut: a rename that decides it was done, or may have been, and is
// not known to be durable. The process must neither serve the disk nor tell
// anybody, and exit; the next start finds out. Every later method of the same
// Records fails with the same error.
var ErrUncertain = errors.New("nobody knows whether this would survive a power cut")

// Records are the records of one disk, opened by the one process that may change
// them.
type Records struct {
	fs    FS
	place Place

	// seen is what state was when no operation was under way: an operation may hang in
	// the kernel, and whoever asks must not.
	seen atomic.Pointer[State]

	mu       sync.Mutex
	state    State     // while unsure: the more careful of what may be
	unsure   bool      // an operation failed: read and write anew before the next
	lost     error     // wraps ErrUncertain, for good
	fresh    bool      // Expect has made .INCOMPLETE and nothing else since
	intended bool      // state.Next was written by Intend, and Depart may follow
	made     bool      // the state directory is there, durably
	lock     io.Closer // of a state directory; nil: not held yet
	closed   bool
}

// Open reads the records and makes durable what it finds, so that a power cut
// cannot undo what the caller then acts on; what killed processes left over is
// removed. The caller holds the image's lock; in a state directory, Open takes the
// lock file beside the records until [Records.Close] ([ErrLocked] if another
// process has it).
//
// Where there are no records nothing is made and nothing written: neither a state
// directory that is not there, nor anything in a directory that this process may
// not write to. Whether records can be kept is what [Records.Check] says.
func Open(fs FS, p Place) (*Records, error) {
	r := &Records{fs: fs, place: p}
	r.mu.Lock()
	defer r.unlock()
	err := r.takeLock()
	if noRecords(p, err) {
		err = nil // the first write takes it
	}
	if err == nil {
		err = r.settle()
	}
	if err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

// noRecords says whether err means that nobody can have written into a state
// directory: it is not there, or on a file system that cannot be written to.
func noRecords(p Place, err error) bool {
	return p.StateDir && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, errReadOnly))
}

// settle finds out what the records are, and makes that durable: first the names,
// so that a rename that was done is done for good, before what is under them is
// written anew. Anew, because after a failed fsync the next one succeeds although
// nothing has reached the disk.
func (r *Records) settle() error {
	for _, suffix := range []string{suffixIncomplete, suffixMigrated, suffixNext, suffixReceived} {
		_ = r.fs.Remove(r.place.path(suffix + suffixTemporary)) // in the way of nobody but the next write, which says so
	}
	found, err := readAll(r.fs, r.place)
	if err == nil && len(found.files) == 0 {
		err = r.settleNothing()
	} else if err == nil {
		err = r.settleFound(found)
	}
	if err == nil {
		r.state, r.unsure = found.state, false
	}
	return err
}

func (r *Records) settleFound(found found) error {
	if err := r.syncDir(); err != nil {
		return err
	}
	for _, path := range found.undone {
		if err := r.remove(path); err != nil {
			return err
		}
	}
	for _, f := range found.files {
		if _, err := r.put(f.path, f.data); err != nil {
			return err
		}
	}
	return nil
}

// settleNothing is for a disk without records. When a process starts, only what was
// removed last could come back, which keeps a disk from being served, no worse. So a
// directory in which nobody can keep records is no reason not to serve. After an
// error of this process's own it has to be certain, and for that the directory has
// to be changed.
func (r *Records) settleNothing() error {
	if r.unsure {
		return r.probe()
	}
	if err := r.syncDir(); err != nil && !unable(err) && !noRecords(r.place, err) {
		return err
	}
	return nil
}

// Place is where the records are.
func (r *Records) Place() Place { return r.place }

// State is what the records say: after a method that returned nil, durably; after
// one that returned an error, the more careful of what may be; and during one what it
// was before. The caller may change what it points to.
func (r *Records) State() State { return r.seen.Load().clone() }

// unlock ends an operation.
func (r *Records) unlock() {
	state := r.state.clone()
	r.seen.Store(&state)
	r.mu.Unlock()
}

// Check says whether records can be written here, by writing, syncing and removing
// a file of their size. It is for before a listener opens or a copy starts, which
// should not run for hours to find a directory that is read-only.
func (r *Records) Check() error {
	r.mu.Lock()
	defer r.unlock()
	if err := r.begin(); err != nil {
		return err
	}
	if err := r.probe(); err != nil {
		return fmt.Errorf("migration records cannot be kept: %w", err)
	}
	return nil
}

func (r *Records) probe() error {
	if err := r.makeDir(); err != nil {
		return err
	}
	path := r.place.Next() + suffixTemporary // the longest name
	if err := r.writeFile(path, make([]byte, probeSize)); err != nil {
		return failure("write", path, err)
	}
	if err := r.fs.Remove(path); err != nil {
		return failure("remove", path, err)
	}
	return r.syncDir()
}

// Close gives up the lock of a state directory. Other methods fail afterwards.
func (r *Records) Close() error {
	r.mu.Lock()
	defer r.unlock()
	return r.close()
}

func (r *Records) close() error {
	r.closed = true
	if r.lock == nil {
		return nil
	}
	lock := r.lock
	r.lock = nil
	return lock.Close()
}

// begin is called first by whatever changes records.
func (r *Records) begin() error {
	switch {
	case r.closed:
		return fmt.Errorf("migration records at %s: used after Close", r.place)
	case r.lost != nil:
		return r.lost
	case r.unsure:
		return r.settle()
	}
	return nil
}

// end notes that what is in the files may be another state now.
func (r *Records) end(err error) error {
	if err != nil {
		r.unsure = true
		r.intended = false
	}
	return err
}

// lose is for when a rename that decides who owns the disk may or may not last.
func (r *Records) lose(err error) error {
	r.lost = fmt.Errorf("%w: %w. Nothing more is done with this disk; "+
		"the next start of flexnbd on it finds out what holds", err, ErrUncertain)
	return r.lost
}

// refuse is for calls that the records do not allow.
func (r *Records) refuse(what, why string) error {
	return fmt.Errorf("cannot %s at %s: %s", what, r.place, why)
}
