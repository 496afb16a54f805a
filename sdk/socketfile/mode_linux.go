// SPDX-License-Identifier: Apache-2.0

package socketfile

import (
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// settle gives the new socket's file what the umask has kept from it, and returns
// what it is. It goes by a descriptor, not by the path: a link that somebody has
// put there meanwhile must not have another file's mode changed.
func settle(path string, perm fs.FileMode) (os.FileInfo, error) {
	file, err := os.OpenFile(path, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("look at the new socket: %w", err)
	}
	defer func() { _ = file.Close() }()
	made, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("look at the new socket: %w", err)
	}
	if made.Mode().Type() == fs.ModeSocket && made.Mode().Perm() != perm {
		// A descriptor of this kind takes no fchmod.
		if err := os.Chmod(fmt.Sprintf("/proc/self/fd/%d", file.Fd()), perm); err != nil {
			return nil, fmt.Errorf("give the new socket mode %#o: %w", perm, err)
		}
		if made, err = file.Stat(); err != nil {
			return nil, fmt.Errorf("look at the new socket: %w", err)
		}
	}
	if made.Mode() != fs.ModeSocket|perm {
		return nil, fmt.Errorf("what is at the path of the new socket has mode %v, not %v", made.Mode(), fs.ModeSocket|perm)
	}
	return made, nil
}
