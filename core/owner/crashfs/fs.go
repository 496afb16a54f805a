// SPDX-License-Identifier: GPL-3.0-or-later

package crashfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/flexnbd/flexnbd/core/owner"
)

// ErrPowerCut is what every operation returns from the moment of [FS.StopAt] on.
var ErrPowerCut = errors.New("the power has failed")

// maxName is the longest name, as on Linux.
const maxName = 255

// FS is an [owner.FS] in memory. Paths are absolute. Its methods may be called from
// many goroutines.
type FS struct {
	mu    sync.Mutex
	root  *node
	locks map[string]*lock // held ones, by path

	ops               []Op
	faults            map[int]fault // by the number of the operation
	stopAt            int           // -1: never
	deafFile, deafDir bool          // fsyncs do nothing
	stopped           bool
}

var _ owner.FS = (*FS)(nil)

// New makes one that has the root directory alone.
func New() *FS { return newFS(newDir()) }

func newFS(root *node) *FS {
	return &FS{root: root, locks: map[string]*lock{}, faults: map[int]fault{}, stopAt: -1}
}

// do carries out one operation: it is counted, fails if it is to, and takes place
// under the mutex.
func (f *FS) do(op Op, act func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	number := len(f.ops)
	if f.stopped || f.stopAt == number {
		f.stopped = true
		return fail(op, ErrPowerCut)
	}
	switch fault, ok := f.faults[number]; {
	case !ok:
		op.Err = act()
	case fault.done:
		if op.Err = act(); op.Err == nil {
			op.Err = fault.err
		}
	default:
		op.Err = fault.err
		if op.node != nil && op.Err != nil {
			op.node.spoil()
		}
	}
	op.node = nil
	f.ops = append(f.ops, op)
	if op.Err != nil {
		return fail(op, op.Err)
	}
	return nil
}

func fail(op Op, err error) error {
	return &fs.PathError{Op: string(op.Kind), Path: op.Path, Err: err}
}

// find returns what is at a path.
func (f *FS) find(name string) (*node, error) {
	if !path.IsAbs(name) {
		return nil, syscall.EINVAL
	}
	n := f.root
	for _, part := range strings.FieldsFunc(path.Clean(name), func(r rune) bool { return r == '/' }) {
		switch {
		case len(part) > maxName:
			return nil, syscall.ENAMETOOLONG
		case !n.dir:
			return nil, syscall.ENOTDIR
		case n.entries[part] == nil:
			return nil, syscall.ENOENT
		}
		n = n.entries[part]
	}
	return n, nil
}

// parent returns the directory in which a path's last name is.
func (f *FS) parent(name string) (dir *node, last string, err error) {
	dir, err = f.find(path.Dir(path.Clean(name)))
	last = path.Base(path.Clean(name))
	switch {
	case err != nil:
		return nil, "", err
	case !dir.dir:
		return nil, "", syscall.ENOTDIR
	case len(last) > maxName:
		return nil, "", syscall.ENAMETOOLONG
	}
	return dir, last, nil
}

// Create is [owner.FS]'s.
func (f *FS) Create(name string, _ fs.FileMode) (owner.File, error) {
	var n *node
	err := f.do(Op{Kind: OpCreate, Path: name}, func() error {
		dir, last, err := f.parent(name)
		switch {
		case err != nil:
			return err
		case dir.entries[last] != nil:
			return syscall.EEXIST
		}
		n = &node{}
		dir.change(map[string]*node{last: n})
		return nil
	})
	if n == nil || err != nil {
		return nil, err
	}
	return &file{f, n, name}, nil
}

// ReadFile is [owner.FS]'s.
func (f *FS) ReadFile(name string, most int) (data []byte, err error) {
	err = f.do(Op{Kind: OpRead, Path: name}, func() error {
		n, err := f.find(name)
		switch {
		case err != nil:
			return err
		case n.dir:
			return owner.ErrIrregular
		case len(n.data) > most:
			return owner.ErrTooLarge
		}
		data = slices.Clone(n.data)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return data, nil
}

// Rename is [owner.FS]'s.
func (f *FS) Rename(from, to string) error {
	return f.do(Op{Kind: OpRename, Path: from, To: to}, func() error {
		dir, old, err := f.parent(from)
		if err != nil {
			return err
		}
		toDir, name, err := f.parent(to)
		switch n := dir.entries[old]; {
		case err != nil:
			return err
		case n == nil:
			return syscall.ENOENT
		case toDir != dir:
			return syscall.EXDEV
		case n.dir, dir.entries[name] != nil && dir.entries[name].dir:
			return syscall.EISDIR
		case old != name:
			dir.change(map[string]*node{old: nil, name: n})
		}
		return nil
	})
}

// Remove is [owner.FS]'s.
func (f *FS) Remove(name string) error {
	return f.do(Op{Kind: OpRemove, Path: name}, func() error {
		dir, last, err := f.parent(name)
		switch {
		case err != nil:
			return err
		case dir.entries[last] == nil:
			return syscall.ENOENT
		case len(dir.entries[last].entries) > 0:
			return syscall.ENOTEMPTY
		}
		dir.change(map[string]*node{last: nil})
		return nil
	})
}

// Mkdir is [owner.FS]'s.
func (f *FS) Mkdir(name string, _ fs.FileMode) error {
	return f.do(Op{Kind: OpMkdir, Path: name}, func() error {
		dir, last, err := f.parent(name)
		switch {
		case err != nil:
			return err
		case last == "/" || dir.entries[last] != nil:
			return syscall.EEXIST
		}
		dir.change(map[string]*node{last: newDir()})
		return nil
	})
}

// SyncDir is [owner.FS]'s.
func (f *FS) SyncDir(name string) error {
	f.mu.Lock()
	n, err := f.find(name)
	f.mu.Unlock()
	return f.do(Op{Kind: OpSyncDir, Path: name, node: n}, func() error {
		switch {
		case err != nil:
			return err
		case !n.dir:
			return syscall.ENOTDIR
		case !f.deafDir:
			n.sync()
		}
		return nil
	})
}

// Lock is [owner.FS]'s. Locks are no operations of their own once the file is
// there, and end with [FS.Kill] and power cuts.
func (f *FS) Lock(name string) (io.Closer, error) {
	f.mu.Lock()
	_, err := f.find(name)
	f.mu.Unlock()
	if errors.Is(err, fs.ErrNotExist) {
		_, err = f.Create(name, 0)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.locks[name] != nil {
		return nil, fmt.Errorf("%s: %w", name, owner.ErrLocked)
	}
	l := &lock{f, name}
	f.locks[name] = l
	return l, nil
}

type lock struct {
	fs   *FS
	name string
}

// Close gives the lock up; a second time does nothing.
func (l *lock) Close() error {
	l.fs.mu.Lock()
	defer l.fs.mu.Unlock()
	if l.fs.locks[l.name] == l {
		delete(l.fs.locks, l.name)
	}
	return nil
}

// WriteFile puts a file there, durably, with the folders above, for what is to be
// there before a test begins. It is no operation. It panics where a file is in the
// way of a folder.
func (f *FS) WriteFile(name string, data []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	dir := f.makeDirs(path.Dir(path.Clean(name)))
	dir.change(map[string]*node{path.Base(name): {data: slices.Clone(data), durable: slices.Clone(data)}})
	dir.sync()
}

// MkdirAll makes a folder and those above, durably. It is no operation.
func (f *FS) MkdirAll(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.makeDirs(path.Clean(name))
}

func (f *FS) makeDirs(name string) *node {
	n, err := f.find(name)
	if err == nil && n.dir {
		return n
	}
	if !errors.Is(err, fs.ErrNotExist) {
		panic(fmt.Sprintf("crashfs: no folder can be made at %s", name))
	}
	dir, n := f.makeDirs(path.Dir(name)), newDir()
	dir.change(map[string]*node{path.Base(name): n})
	dir.sync()
	return n
}

// Names lists what is in a directory, in order; nothing where there is none. It is
// no operation.
func (f *FS) Names(dir string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.find(dir)
	if err != nil {
		return nil
	}
	return slices.Sorted(maps.Keys(n.entries))
}
