// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLinks is how many symbolic links a path may lead through, as in the kernel.
const maxLinks = 40

// trusted is owned for a file that can be run.
func trusted(path string) (string, error) {
	real, err := owned(path)
	if err != nil {
		return "", err
	}
	return real, runnable(real)
}

// owned finds the file or folder that path leads to, and returns an error unless nobody
// but root and the current user could have put something else there. It looks at it and
// at every folder and symbolic link on the way. path is absolute; the result has no
// symbolic link in it.
func owned(path string) (string, error) {
	at, rest := "/", strings.Split(path, "/")
	if _, err := guarded(at); err != nil {
		return "", err
	}
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		if name == "" || name == "." {
			continue
		}
		if name == ".." {
			at = filepath.Dir(at)
			continue
		}
		next := filepath.Join(at, name)
		kind, err := guarded(next)
		if err != nil {
			return "", err
		}
		if kind != unix.S_IFLNK {
			at = next
			continue
		}
		if links++; links > maxLinks {
			return "", &os.PathError{Op: "follow", Path: path, Err: unix.ELOOP}
		}
		target, err := os.Readlink(next)
		if err != nil {
			return "", err
		}
		if filepath.IsAbs(target) {
			at = "/"
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return at, nil
}

// guarded checks who could change one file, folder or symbolic link, and returns
// which of them it is.
func guarded(path string) (kind uint32, err error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return 0, &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	kind = st.Mode & unix.S_IFMT
	// In a folder with the sticky bit, such as /tmp, others can add files but
	// not replace the one below, whose owner is checked as well.
	sticky := kind == unix.S_IFDIR && st.Mode&unix.S_ISVTX != 0
	switch {
	case st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return 0, fmt.Errorf("refused: %s belongs to user %d, who could put anything there; it has to belong to root or to the user who runs flexnbd", path, st.Uid)
	case kind != unix.S_IFLNK && st.Mode&0o022 != 0 && !sticky:
		return 0, fmt.Errorf("refused: %s can be written by its group or by everyone (mode %04o), who could put anything there; chmod go-w it", path, st.Mode&0o7777)
	}
	return kind, nil
}

// runnable checks that the file at path is one that can be executed.
func runnable(path string) error {
	st, err := os.Lstat(path)
	switch {
	case err != nil:
		return err
	case !st.Mode().IsRegular():
		return fmt.Errorf("refused: %s is no regular file", path)
	}
	if err := unix.Access(path, unix.X_OK); err != nil {
		return fmt.Errorf("%s cannot be executed: %w; chmod +x it if it is a plugin, and see that its file system is not mounted noexec", path, err)
	}
	return nil
}
