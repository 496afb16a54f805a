// SPDX-License-Identifier: Apache-2.0

package socketfile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Listener is a listening socket with a path that belongs to it. It is a
// [net.Listener]; all methods may be called from many goroutines.
type Listener struct {
	socket *net.UnixListener
	path   string
	file   os.FileInfo  // what Listen made at path
	leave  atomic.Bool  // the path is somebody else's to remove
	close  func() error // runs once, then repeats its result
}

// Listen makes a socket at path and listens at it. perm is the mode of its file,
// 0600 or 0660, say; to connect, a process needs the right to write. The file's
// group is the process's, or the directory's where that has the setgid bit.
//
// A relative path is taken from the working directory, now and at Close.
func Listen(ctx context.Context, path string, perm fs.FileMode) (*Listener, error) {
	if perm != perm.Perm() {
		return nil, fmt.Errorf("%v is no mode for a socket: only permission bits count", perm)
	}
	if err := Check(path); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	unlock, err := lockDirectory(ctx, path)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := clearStale(path); err != nil {
		return nil, err
	}
	socket, err := bind(ctx, path, perm)
	if err != nil {
		return nil, err
	}
	file, err := settle(path, perm)
	if err != nil {
		return nil, errors.Join(err, socket.Close())
	}
	l := &Listener{socket: socket, path: path, file: file}
	l.close = sync.OnceValue(func() error { return errors.Join(l.remove(), l.socket.Close()) })
	return l, nil
}

// Accept waits for the next connection, a [*net.UnixConn].
func (l *Listener) Accept() (net.Conn, error) { return l.socket.Accept() }

// AcceptUnix is Accept with the type that it returns.
func (l *Listener) AcceptUnix() (*net.UnixConn, error) { return l.socket.AcceptUnix() }

// SetDeadline ends waiting Accepts at t with [os.ErrDeadlineExceeded].
func (l *Listener) SetDeadline(t time.Time) error { return l.socket.SetDeadline(t) }

// Addr is the socket's address.
func (l *Listener) Addr() net.Addr { return l.socket.Addr() }

// Path is the path as it was given to Listen.
func (l *Listener) Path() string { return l.path }

// Close ends the socket and removes its path, unless something else has taken
// that place or it is gone already. Waiting Accepts end with [net.ErrClosed].
// A second Close does nothing and returns what the first one did.
func (l *Listener) Close() error { return l.close() }

// LeavePath makes Close leave the path where it is, for whoever may still remove it: see
// [RemoveStale].
func (l *Listener) LeavePath() { l.leave.Store(true) }

// remove is called while the socket is open. Until then nobody else can have its
// inode number, and nobody takes it for stale; so it needs no lock.
func (l *Listener) remove() error {
	if l.leave.Load() {
		return nil
	}
	file, err := os.Lstat(l.path)
	if err == nil && os.SameFile(file, l.file) {
		err = os.Remove(l.path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the socket's path: %w", err)
	}
	return nil
}

// bind makes the socket with perm or less, and nothing wider in between: Linux
// gives a bound socket's file the mode of the socket itself, less the umask, and
// that can be set before bind. The umask belongs to the whole process and is left
// alone.
func bind(ctx context.Context, path string, perm fs.FileMode) (*net.UnixListener, error) {
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var chmod error
		if err := raw.Control(func(fd uintptr) { chmod = syscall.Fchmod(int(fd), uint32(perm)) }); err != nil {
			return err
		}
		return os.NewSyscallError("fchmod", chmod)
	}}
	socket, err := config.Listen(ctx, "unix", name(path))
	if err != nil {
		var op *net.OpError // which names the path again
		if errors.As(err, &op) {
			err = op.Err
		}
		return nil, err
	}
	listener := socket.(*net.UnixListener)
	listener.SetUnlinkOnClose(false) // remove looks first whose it is
	return listener, nil
}
