// SPDX-License-Identifier: GPL-3.0-or-later

package crashfs

import (
	"fmt"
	"slices"
)

// Kind is what an operation does.
type Kind string

// The kinds of operations.
const (
	OpCreate  Kind = "create"
	OpWrite   Kind = "write"
	OpSync    Kind = "fsync"
	OpClose   Kind = "close"
	OpRead    Kind = "read"
	OpRename  Kind = "rename"
	OpRemove  Kind = "remove"
	OpMkdir   Kind = "mkdir"
	OpSyncDir Kind = "fsync directory"
)

// Op is one operation that was tried.
type Op struct {
	Kind Kind
	Path string
	To   string // of a rename
	Err  error  // what it returned

	node *node // of an fsync, while it is carried out
}

// String is for messages of tests.
func (o Op) String() string {
	text := string(o.Kind) + " " + o.Path
	if o.To != "" {
		text += " to " + o.To
	}
	if o.Err != nil {
		text += fmt.Sprintf(" (%v)", o.Err)
	}
	return text
}

type fault struct {
	err  error
	done bool
}

// Ops lists all operations so far. Operations after the power cut are not among
// them.
func (f *FS) Ops() []Op {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.ops)
}

// StopAt makes the power fail before the n-th operation from now, counted from 0:
// that one and all later ones are not done and return [ErrPowerCut].
func (f *FS) StopAt(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stopAt = len(f.ops) + n
}

// Stopped says whether the power has failed.
func (f *FS) Stopped() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stopped
}

// FailAt makes the n-th operation from now, counted from 0, return err without
// being done. A write that fails has written nothing; of an fsync that fails see
// the package's comment.
func (f *FS) FailAt(n int, err error) { f.failAt(n, fault{err: err}) }

// FailDoneAt makes the n-th operation from now return err after it was done.
func (f *FS) FailDoneAt(n int, err error) { f.failAt(n, fault{err: err, done: true}) }

// SkipAt makes the n-th operation from now report success without being done: to
// leave out one fsync, and see that somebody notices. It is for fsyncs, closes,
// renames and removals; others would have nothing to return.
func (f *FS) SkipAt(n int) { f.failAt(n, fault{}) }

func (f *FS) failAt(n int, to fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults[len(f.ops)+n] = to
}

// IgnoreFileSync makes every fsync of a file do nothing and report success, as a
// program does that leaves them out.
func (f *FS) IgnoreFileSync() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.deafFile = true
}

// IgnoreDirSync does the same for directories.
func (f *FS) IgnoreDirSync() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.deafDir = true
}
