// SPDX-License-Identifier: GPL-3.0-or-later

package owner

import (
	"errors"
	"io"
	"io/fs"
)

// FS is what the records need of a file system, each step by itself, so that tests
// can fail and cut off every one: see package crashfs. The real one is [Disk].
// Errors are those of package os, so that errors.Is finds fs.ErrNotExist,
// fs.ErrExist and a syscall.Errno in them. Methods may be called from many
// goroutines.
type FS interface {
	// Create makes a file that must not exist, to be written. Neither the file
	// nor its name is durable.
	Create(path string, mode fs.FileMode) (File, error)
	// ReadFile reads a regular file of at most most bytes. It follows no
	// symbolic link and waits for nobody; a longer file is [ErrTooLarge], what
	// is no regular file is [ErrIrregular].
	ReadFile(path string, most int) ([]byte, error)
	// Rename replaces what is at to, at once: whoever looks sees the one or the
	// other. It is not durable before SyncDir.
	Rename(from, to string) error
	// Remove removes a file or an empty directory. It is not durable before SyncDir.
	Remove(path string) error
	// Mkdir makes one directory. It is not durable before SyncDir of its parent.
	Mkdir(path string, mode fs.FileMode) error
	// SyncDir makes durable which names are in a directory.
	SyncDir(path string) error
	// Lock makes the file if it is not there and locks it for this Closer, as
	// flock does. [ErrLocked]: somebody else holds it.
	Lock(path string) (io.Closer, error)
}

// File is a file that is being written.
type File interface {
	io.Writer
	// Sync makes durable what was written. After an error nothing is known, and
	// a second Sync that succeeds changes nothing about that.
	Sync() error
	io.Closer
}

// Errors of an FS.
var (
	ErrTooLarge  = errors.New("file is too large for a migration record")
	ErrIrregular = errors.New("not a regular file")
	ErrLocked    = errors.New("locked by another process")
)
