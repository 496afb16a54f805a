// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// trusted returns nil if nobody but root and the current user could have put
// something else at path, and it can be run. It follows symbolic links and looks
// at the file and every folder above it.
func trusted(path string) error {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	if err := guarded(real, unix.S_IFREG); err != nil {
		return err
	}
	if err := unix.Access(real, unix.X_OK); err != nil {
		return fmt.Errorf("cannot be executed: %w; chmod +x it if it is a plugin", err)
	}
	for dir := filepath.Dir(real); ; dir = filepath.Dir(dir) {
		if err := guarded(dir, unix.S_IFDIR); err != nil {
			return err
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

// guarded checks owner, mode and type of one file or folder.
func guarded(path string, want uint32) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	// In a folder with the sticky bit, such as /tmp, others can add files but
	// not replace the one below, whose owner is checked as well.
	sticky := want == unix.S_IFDIR && st.Mode&unix.S_ISVTX != 0
	switch {
	case st.Mode&unix.S_IFMT != want && want == unix.S_IFREG:
		return fmt.Errorf("refused: %s is no regular file", path)
	case st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return fmt.Errorf("refused: %s belongs to user %d, who could put anything there; it has to belong to root or to the user who runs flexnbd", path, st.Uid)
	case st.Mode&0o022 != 0 && !sticky:
		return fmt.Errorf("refused: %s can be written by its group or by everyone (mode %04o), who could put anything there; chmod go-w it", path, st.Mode&0o7777)
	}
	return nil
}
