// SPDX-License-Identifier: GPL-3.0-or-later

package file

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

var errNoLocation error = &explained{"no image is given; name it with --file", unix.EINVAL}

// explain says what it means that path could not be opened, and what to do.
func explain(path string, readOnly bool, err error) error {
	var already *explained
	if errors.As(err, &already) {
		return err
	}
	var hint string
	switch {
	case errors.Is(err, unix.ENOENT):
		hint = "create the image first, or correct the path"
	case errors.Is(err, unix.ENOTDIR):
		hint = "a part of the path is not a directory; correct it"
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		hint = fmt.Sprintf("let the user that flexnbd runs as read%s the image and enter its directories",
			map[bool]string{false: " and write"}[readOnly])
	case errors.Is(err, unix.EROFS), errors.Is(err, unix.ETXTBSY):
		hint = "it cannot be written; serve it read-only, or put it elsewhere"
	case errors.Is(err, unix.ELOOP):
		hint = "its symbolic links lead in a circle; correct them"
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		hint = "too many files are open; raise the limit"
	default:
		hint = "see the system's log for the cause"
	}
	return fmt.Errorf("image %s cannot be opened: %w; %s", path, err, hint)
}

// explainKind returns nil for the mode of a regular file and says for any other
// why it is no image, and what to do.
func explainKind(path string, mode uint32) error {
	var what, hint string
	errno := unix.EINVAL
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return nil
	case unix.S_IFDIR:
		what, hint, errno = "a directory", "name the image file in it", unix.EISDIR
	case unix.S_IFBLK:
		what, hint = "a block device", "use --backend blockdev"
	case unix.S_IFCHR:
		what, hint = "a character device", "name a regular file"
	case unix.S_IFIFO:
		what, hint = "a FIFO", "name a regular file"
	case unix.S_IFSOCK:
		what, hint = "a socket", "name a regular file"
	default:
		what, hint = "of an unknown kind", "name a regular file"
	}
	return &explained{fmt.Sprintf("image %s is %s; %s", path, what, hint), errno}
}
