// SPDX-License-Identifier: GPL-3.0-or-later

package owner

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// failure says what could not be done to which file, why, and what to do.
func failure(what, path string, err error) error {
	return fmt.Errorf("cannot %s %s: %w%s", what, path, cause(err), remedy(err))
}

// cause takes off the operation and the path that package os puts in front: the
// sentence has them.
func cause(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	if l, ok := errors.AsType[*os.LinkError](err); ok {
		return l.Err
	}
	return err
}

func remedy(err error) string {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return ": make space on that file system, and try again"
	case errors.Is(err, syscall.EROFS):
		return ": remount that file system for writing, or keep the records elsewhere with --state-dir"
	case errors.Is(err, fs.ErrPermission):
		return ": let the user that runs flexnbd read and write there, or keep the records elsewhere with --state-dir"
	case errors.Is(err, syscall.ENAMETOOLONG):
		return ": use a shorter name"
	case errors.Is(err, syscall.EIO):
		return ": see the kernel's log for what is wrong with that disk"
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return ": is its directory still there?"
	case errors.Is(err, ErrLocked):
		return ": another flexnbd uses this disk; stop it first"
	}
	return ""
}

// errReadOnly: no process can write there.
const errReadOnly = syscall.EROFS

// unable says whether err means that this cannot be done here at all, as opposed to
// having gone wrong.
func unable(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) ||
		errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP)
}
