// SPDX-License-Identifier: Apache-2.0

package socketfile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const (
	// lockTime bounds the wait for the directory's lock, which is held for
	// moments only: whoever keeps it longer is none of us.
	lockTime = 10 * time.Second
	// lockPause is the time between two attempts: flock(2) cannot be waited
	// for with a deadline.
	lockPause = 5 * time.Millisecond
)

// RemoveStale removes the socket at path if no process has it open, as [Listen] would.
// It is for what a process has left behind that was killed, or that may not remove it.
func RemoveStale(ctx context.Context, path string) error {
	unlock, err := lockDirectory(ctx, path)
	if err != nil {
		return err
	}
	defer unlock()
	return clearStale(path)
}

// clearStale makes way at path: it removes a socket that no process has open, and
// nothing else.
func clearStale(path string) error {
	file, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if file.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("there is something else of that name (%v), which is left alone: choose another path", file.Mode())
	}
	used, err := isOpen(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("can't tell whether it is in use: %w", err)
	case used:
		return fmt.Errorf("it is in use by a running server: choose another path, or end that server: %w", syscall.EADDRINUSE)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the stale socket: %w", err)
	}
	return nil
}

// isOpen tells whether some process has the socket at path open. It connects a
// datagram socket, which a stream socket refuses as being of the wrong type, and
// whose own kind takes it without a word. So the server, which a connection would
// be a client to, does not notice; and its queue may be full, or not be there yet.
func isOpen(path string) (bool, error) {
	conn, err := net.DialUnix("unixgram", nil, Addr(path)) // which does not wait
	switch {
	case err == nil:
		_ = conn.Close()
		return true, nil
	case errors.Is(err, syscall.EPROTOTYPE):
		return true, nil
	case errors.Is(err, syscall.ECONNREFUSED):
		return false, nil
	}
	return false, err
}

// lockDirectory takes the lock under which sockets in path's directory are made.
func lockDirectory(ctx context.Context, path string) (unlock func(), err error) {
	dir, err := os.Open(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("make its directory first: %w", err)
	}
	if err != nil {
		return nil, err
	}
	if err := flock(ctx, dir); err != nil {
		return nil, errors.Join(fmt.Errorf("lock the directory %s: %w", dir.Name(), err), dir.Close())
	}
	return func() { _ = dir.Close() }, nil // which unlocks
}

func flock(ctx context.Context, dir *os.File) error {
	retry := time.NewTicker(lockPause)
	defer retry.Stop()
	giveUp := time.NewTimer(lockTime)
	defer giveUp.Stop()
	for {
		err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil || !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-giveUp.C:
			return fmt.Errorf("another program holds the lock (flock) on it: %w", err)
		case <-retry.C:
		}
	}
}
