// SPDX-License-Identifier: GPL-3.0-or-later

package bundle

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// rename gives a folder another name that nobody has, or fs.ErrExist.
func (p *place) rename(from, to string) error {
	err := p.renameat2(from, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		// Some network file systems cannot. There a plain rename does nearly the
		// same: a folder takes no name but that of an empty folder.
		err = p.renameat2(from, to, 0)
		if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.ENOTDIR) {
			err = &os.LinkError{Op: "rename", Old: from, New: to, Err: unix.EEXIST}
		}
	}
	return p.renameFailure(to, err)
}

// exchange swaps the names of two folders, in one step.
func (p *place) exchange(a, b string) error {
	return p.renameFailure(b, p.renameat2(a, b, unix.RENAME_EXCHANGE))
}

func (p *place) renameat2(from, to string, flags uint) error {
	fd := int(p.self.Fd())
	for {
		err := unix.Renameat2(fd, from, fd, to, flags)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EINTR) {
			return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
		}
	}
}

// renameFailure says what to do about file systems that cannot. On an overlay,
// such as a container's, it is a folder of the image that cannot be renamed.
func (p *place) renameFailure(name string, err error) error {
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EXDEV) {
		return fmt.Errorf("the file system of %s cannot rename this in one step (%w): remove the old folder first, with rm -r if need be", p.path(name), cause(err))
	}
	return err
}
