// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	// maxPath is what fits sockaddr_un's sun_path beside its NUL, in bytes.
	maxPath = 107
	// probeTime bounds the look whether somebody answers at a path.
	probeTime = 5 * time.Second
)

// boundSocket is a listening socket with a path that belongs to it.
type boundSocket struct {
	listener *net.UnixListener
	path     string
	file     os.FileInfo // what we made at path
}

// bind makes the socket at path. A directory lock keeps two servers that start
// at once from each taking the other's new socket for a stale one.
func bind(path string) (*boundSocket, error) {
	if err := checkPath(path); err != nil {
		return nil, err
	}
	unlock, err := lockDirectory(path)
	if err != nil {
		return nil, fmt.Errorf("control socket %s: %w", path, err)
	}
	defer unlock()
	if err := clearStale(path); err != nil {
		return nil, err
	}
	listener, err := listenPrivate(path)
	if err != nil {
		return nil, fmt.Errorf("control socket %s: %w", path, err)
	}
	file, err := os.Lstat(path)
	if err == nil && file.Mode() != fs.ModeSocket|0o600 {
		err = fmt.Errorf("it was made with mode %v, not 0600", file.Mode())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("control socket %s: %w", path, err), listener.Close())
	}
	return &boundSocket{listener: listener, path: path, file: file}, nil
}

// checkPath refuses what the kernel would refuse with a bare EINVAL.
func checkPath(path string) error {
	switch {
	case path == "":
		return errors.New("control socket: the path is empty")
	case strings.IndexByte(path, 0) >= 0:
		return fmt.Errorf("control socket %q: the path holds a NUL byte", path)
	case len(address(path)) > maxPath:
		return fmt.Errorf("control socket %s: the path has %d bytes, and the kernel takes %d at most: choose a shorter one",
			path, len(path), maxPath)
	}
	return nil
}

// address is path as package net must be told it: a leading @ would mean a
// name outside the file system.
func address(path string) string {
	if strings.HasPrefix(path, "@") {
		return "./" + path
	}
	return path
}

// listenPrivate binds with mode 0600 and nothing wider in between, whatever the
// umask, which belongs to the whole process and is left alone: Linux gives a
// bound socket's file the mode of the socket itself, less the umask, and that
// can be set before bind.
func listenPrivate(path string) (*net.UnixListener, error) {
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var chmod error
		if err := raw.Control(func(fd uintptr) { chmod = syscall.Fchmod(int(fd), 0o600) }); err != nil {
			return err
		}
		return os.NewSyscallError("fchmod", chmod)
	}}
	listener, err := config.Listen(context.Background(), "unix", address(path))
	if err != nil {
		return nil, err
	}
	unix := listener.(*net.UnixListener)
	unix.SetUnlinkOnClose(false) // unlink looks first whose it is
	return unix, nil
}

// clearStale makes way at path: it removes a socket at which nobody answers,
// and nothing else.
func clearStale(path string) error {
	file, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("control socket %s: %w", path, err)
	}
	if file.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("control socket %s: there is something else of that name (%v), which is left alone: choose another path",
			path, file.Mode())
	}
	dialer := net.Dialer{Timeout: probeTime}
	conn, err := dialer.Dial("unix", address(path))
	switch {
	case err == nil:
		_ = conn.Close()
		return inUse(path)
	case errors.Is(err, syscall.EAGAIN): // alive, its queue is full
		return inUse(path)
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case !errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("control socket %s: can't tell whether it is in use: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("control socket %s: remove the stale one: %w", path, err)
	}
	return nil
}

func inUse(path string) error {
	return fmt.Errorf("control socket %s is in use by a running server: choose another path, or end that server: %w",
		path, syscall.EADDRINUSE)
}

// unlink removes the path, if what is there is still ours. It is called while
// the listener is open: until then nobody else can have its inode number.
func (s *boundSocket) unlink() error {
	unlock, err := lockDirectory(s.path)
	if err != nil {
		return fmt.Errorf("control socket %s: remove it: %w", s.path, err)
	}
	defer unlock()
	file, err := os.Lstat(s.path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(file, s.file) {
		return nil
	}
	if err == nil {
		err = os.Remove(s.path)
	}
	if err != nil {
		return fmt.Errorf("control socket %s: remove it: %w", s.path, err)
	}
	return nil
}

// lockDirectory takes the lock under which names of control sockets in path's
// directory are made and removed. It is held for moments only, so whoever
// keeps it longer is no flexnbd, and not waited for without end.
func lockDirectory(path string) (unlock func(), err error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(2 * probeTime)
	for {
		err = syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return func() { _ = dir.Close() }, nil // which unlocks
		case errors.Is(err, syscall.EINTR):
		case !errors.Is(err, syscall.EWOULDBLOCK) || time.Now().After(deadline):
			return nil, errors.Join(fmt.Errorf("lock the directory %s: %w", dir.Name(), err), dir.Close())
		default:
			time.Sleep(5 * time.Millisecond) // flock can't be waited for with a deadline
		}
	}
}
