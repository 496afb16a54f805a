// SPDX-License-Identifier: Apache-2.0

package socketfile

import (
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Give makes the socket's file another user's, with the mode perm. uid or gid may be
// -1, which leaves it as it is. Like [Listen] it goes by a descriptor: what somebody
// else has put at the path is not touched.
func (l *Listener) Give(uid, gid int, perm fs.FileMode) error {
	if perm != perm.Perm() {
		return fmt.Errorf("%v is no mode for a socket: only permission bits count", perm)
	}
	file, err := os.OpenFile(l.path, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("look at the socket: %w", err)
	}
	defer func() { _ = file.Close() }()
	switch made, err := file.Stat(); {
	case err != nil:
		return fmt.Errorf("look at the socket: %w", err)
	case !os.SameFile(made, l.file):
		return fmt.Errorf("something else has taken the place of the socket")
	}
	fd := int(file.Fd())
	if err := unix.Fchownat(fd, "", uid, gid, unix.AT_EMPTY_PATH); err != nil {
		return fmt.Errorf("give the socket to user %d and group %d: %w", uid, gid, err)
	}
	// A descriptor of this kind takes no fchmod.
	if err := os.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), perm); err != nil {
		return fmt.Errorf("give the socket mode %#o: %w", perm, err)
	}
	return nil
}
