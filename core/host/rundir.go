// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/core/privilege"
)

// runDir is the private folder in which the plugins' sockets are. A lock on a
// file inside tells other hosts that it is in use, so that they can sweep what a
// killed host left behind.
type runDir struct {
	path string
	lock *os.File
}

const (
	runDirPrefix = "flexnbd-run-"
	lockName     = "host.lock"
	socketDirs   = "plugin-dir*" // what go-plugin makes inside
	sockets      = "plugin*"     // and what it makes inside of those
	// maxBase leaves room for what os.MkdirTemp and go-plugin append, within
	// the 107 bytes of a Unix socket's path.
	maxBase = 44
	// youth is how long a folder is left alone after its last change: its owner
	// may be about to lock it.
	youth = time.Minute
)

// newRunDir makes the folder for this process's user, or for another one, who may not
// come by the folders of this one.
func newRunDir(getenv func(string) string, user *privilege.User) (*runDir, error) {
	base := runDirBase(getenv)
	if user != nil {
		base = "/tmp"
	}
	sweep(base)
	path, err := os.MkdirTemp(base, runDirPrefix) // mode 0700
	if err != nil {
		return nil, fmt.Errorf("cannot make a folder for the plugins' sockets: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(path, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err == nil {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		_ = lock.Close()
		_ = removeRunDir(path)
		return nil, fmt.Errorf("cannot lock %s: %w", path, err)
	}
	if user != nil {
		if err := errors.Join(lock.Chown(int(user.UID), int(user.GID)), os.Chown(path, int(user.UID), int(user.GID))); err != nil {
			return nil, errors.Join(err, lock.Close(), removeRunDir(path))
		}
	}
	return &runDir{path: path, lock: lock}, nil
}

// runDirBase prefers the user's runtime folder, then the temporary one, then
// /tmp, which is always short enough.
func runDirBase(getenv func(string) string) string {
	for _, base := range []string{getenv("XDG_RUNTIME_DIR"), getenv("TMPDIR")} {
		if base == "" || !filepath.IsAbs(base) || len(base) > maxBase {
			continue
		}
		if st, err := os.Stat(base); err == nil && st.IsDir() && unix.Access(base, unix.W_OK) == nil {
			return base
		}
	}
	return "/tmp"
}

// sameOwner gives a folder that root has made to whom the one above belongs, who is
// about to make sockets in it. It goes by a descriptor, since that somebody may have put
// something else in its place.
func sameOwner(dir, above string) error {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	var made, as unix.Stat_t
	if err := errors.Join(unix.Fstat(fd, &made), unix.Lstat(above, &as)); err != nil {
		return err
	}
	if made.Uid == as.Uid {
		return nil
	}
	return unix.Fchownat(fd, "", int(as.Uid), int(as.Gid), unix.AT_EMPTY_PATH)
}

func (d *runDir) remove() error {
	return errors.Join(removeRunDir(d.path), d.lock.Close())
}

// removeRunDir removes what hosts and plugins put into such a folder, and the
// folder. Where there is anything else it fails, and leaves that where it is.
func removeRunDir(path string) error {
	dirs, _ := filepath.Glob(filepath.Join(globQuote(path), socketDirs))
	for _, dir := range dirs {
		files, _ := filepath.Glob(filepath.Join(globQuote(dir), sockets))
		for _, file := range files {
			_ = os.Remove(file)
		}
		_ = os.Remove(dir)
	}
	_ = os.Remove(filepath.Join(path, lockName))
	return os.Remove(path)
}

// sweep removes the folders of this user's hosts that are gone. It is a
// courtesy: whatever goes wrong, the next start tries again.
func sweep(base string) {
	dirs, _ := filepath.Glob(filepath.Join(globQuote(base), runDirPrefix+"*"))
	for _, dir := range dirs {
		var st unix.Stat_t
		if unix.Lstat(dir, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR || int(st.Uid) != os.Geteuid() {
			continue
		}
		if time.Since(time.Unix(st.Mtim.Unix())) > youth && abandoned(dir) {
			_ = removeRunDir(dir)
		}
	}
}

// abandoned says whether no living host holds the lock of a folder in which is
// nothing but what hosts put there.
func abandoned(dir string) bool {
	if !onlyOurs(dir) {
		return false
	}
	lock, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR, 0)
	if err != nil {
		return errors.Is(err, os.ErrNotExist)
	}
	defer func() { _ = lock.Close() }()
	return unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
}

// onlyOurs keeps the sweep away from a folder that has our prefix by chance and
// something else inside.
func onlyOurs(dir string) bool {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, e := range entries {
		sockets, _ := filepath.Match(socketDirs, e.Name())
		if e.Name() != lockName && !sockets {
			return false
		}
	}
	return true
}
