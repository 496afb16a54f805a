// SPDX-License-Identifier: GPL-3.0-or-later

package blockdev

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// explained is an error for an operator that is complete as it stands; the
// number in it is for programs.
type explained struct {
	sentence string
	errno    unix.Errno
}

func (e *explained) Error() string { return e.sentence }
func (e *explained) Unwrap() error { return e.errno }

var errNoLocation error = &explained{"no device is given; name it with --file", unix.EINVAL}

func noBytes(path string) error {
	return &explained{fmt.Sprintf("device %s has no bytes; attach something to it, or insert a medium", path), unix.ENOMEDIUM}
}

// explain says what it means that path could not be opened, and what to do.
func explain(path string, readOnly bool, err error) error {
	var already *explained
	if errors.As(err, &already) {
		return err
	}
	var hint string
	switch {
	case errors.Is(err, unix.ENOENT):
		hint = "attach the device first, or correct the path"
	case errors.Is(err, unix.ENOTDIR):
		hint = "a part of the path is not a directory; correct it"
	case errors.Is(err, unix.EBUSY):
		hint = "it is mounted, served, or in use by LVM, RAID or another program, or one of its partitions is; end that first"
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		hint = fmt.Sprintf("let the user that flexnbd runs as read%s the device (its group is often disk)",
			map[bool]string{false: " and write"}[readOnly])
	case errors.Is(err, unix.EROFS):
		hint = "it cannot be written; serve it with --read-only, or make it writable (blockdev --setrw)"
	case errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		hint = "there is no device behind this node; attach it, or load its driver"
	case errors.Is(err, unix.ENOMEDIUM):
		hint = "insert a medium"
	case errors.Is(err, unix.ELOOP):
		hint = "its symbolic links lead in a circle; correct them"
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		hint = "too many files are open; raise the limit"
	default:
		hint = "see the system's log for the cause"
	}
	return fmt.Errorf("device %s cannot be opened: %w; %s", path, err, hint)
}

// explainKind returns nil for the mode of a block device and says for any other
// why it is none, and what to do.
func explainKind(path string, mode uint32) error {
	what, hint := "something unknown", "name a block device"
	switch mode & unix.S_IFMT {
	case unix.S_IFBLK:
		return nil
	case unix.S_IFREG:
		what, hint = "a regular file", "use --backend file"
	case unix.S_IFDIR:
		return &explained{fmt.Sprintf("%s is no block device but a directory; name a block device", path), unix.EISDIR}
	case unix.S_IFCHR:
		what = "a character device"
	case unix.S_IFIFO:
		what = "a FIFO"
	case unix.S_IFSOCK:
		what = "a socket"
	}
	return &explained{fmt.Sprintf("%s is no block device but %s; %s", path, what, hint), unix.ENOTBLK}
}
