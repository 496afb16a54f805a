// SPDX-License-Identifier: GPL-3.0-or-later

package unixsocket

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/sdk/transport"
	"github.com/flexnbd/flexnbd/sdk/wire/wiretest"
)

// deadline bounds whatever a test waits for.
const deadline = 10 * time.Second

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	t.Cleanup(cancel)
	return ctx
}

// wants checks an error's text, word for word in parts, and its cause.
func wants(t *testing.T, err, cause error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Error("no error")
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error does not say %q: %v", part, err)
		}
	}
	if cause != nil && !errors.Is(err, cause) {
		t.Errorf("the error does not wrap %v: %#v", cause, err)
	}
}

func listen(t *testing.T, tr transport.Transport) transport.Listener {
	t.Helper()
	l, err := tr.Listen(within(t), transport.Address{Addr: socketPath(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// fullSocket returns a socket that listens, and whose queue of connections is
// full.
func fullSocket(t *testing.T) (net.Listener, transport.Address) {
	t.Helper()
	path := socketPath(t)
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), path)
	defer func() { _ = file.Close() }()
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	l, err := net.FileListener(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	for {
		conn, err := net.Dial("unix", path)
		if errors.Is(err, syscall.EAGAIN) {
			return l, transport.Address{Addr: path}
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
}

func TestSocketLetsInUserAndGroup(t *testing.T) {
	for _, umask := range []int{0, 0o022, 0o077} {
		old := syscall.Umask(umask)
		l := listen(t, New())
		syscall.Umask(old)
		if file, err := os.Lstat(l.Address().Addr); err != nil || file.Mode() != fs.ModeSocket|0o660 {
			t.Errorf("umask %#o: mode %v, error %v", umask, file.Mode(), err)
		}
	}
}

func TestSocketTakesItsDirectorysGroup(t *testing.T) {
	path := socketPath(t)
	dir, group := filepath.Dir(path), os.Getegid()
	if os.Geteuid() == 0 {
		group = 60002
	}
	if err := errors.Join(os.Chown(dir, -1, group), os.Chmod(dir, fs.ModeSetgid|0o750)); err != nil {
		t.Fatal(err)
	}
	l, err := New().Listen(within(t), transport.Address{Addr: path})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	file, err := os.Lstat(path)
	if err != nil || int(file.Sys().(*syscall.Stat_t).Gid) != group {
		t.Errorf("have %+v, %v; want group %d", file.Sys(), err, group)
	}
}

// The process's first thread cannot be thrown away, so as must not get it.
func init() { runtime.LockOSThread() }

// as runs f with other credentials if this process may have them, on a thread
// that is then thrown away, and returns which they were.
func as[T any](t *testing.T, f func() (T, error)) (value T, cred transport.Cred) {
	t.Helper()
	cred = transport.Cred{PID: int32(os.Getpid()), UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
	if cred.UID == 0 {
		cred.UID, cred.GID = 60001, 60002
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked
		uid, gid := uintptr(cred.UID), uintptr(cred.GID)
		_, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, gid, gid, gid) // this thread's alone
		if errno == 0 {
			_, _, errno = unix.RawSyscall(unix.SYS_SETRESUID, uid, uid, uid)
		}
		if errno != 0 {
			done <- errno
			return
		}
		var err error
		value, err = f()
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return value, cred
}

// open lets every user connect to the socket at path.
func open(t *testing.T, path string) {
	t.Helper()
	if err := errors.Join(os.Chmod(path, 0o666), os.Chmod(filepath.Dir(path), 0o711)); err != nil {
		t.Fatal(err)
	}
}

func TestPeerIsTheProcessThatConnected(t *testing.T) {
	for name, tr := range map[string]transport.Transport{"in process": New(), "over the wire": wiretest.Transport(t, New())} {
		l := listen(t, tr)
		path := l.Address().Addr
		open(t, path)
		dialled, cred := as(t, func() (transport.Conn, error) {
			return New().Dial(within(t), l.Address(), transport.Address{})
		})
		defer func() { _ = dialled.Socket.Close() }()
		accepted, err := l.Accept(within(t))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = accepted.Socket.Close() }()
		checkPeer(t, name+", accepted", accepted.Peer, path, cred)
		own := transport.Cred{PID: int32(os.Getpid()), UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
		checkPeer(t, name+", dialled", dialled.Peer, path, own)
	}
}

func checkPeer(t *testing.T, name string, peer transport.Peer, path string, cred transport.Cred) {
	t.Helper()
	if peer.Network != "unix" || peer.Address != path || peer.Cred == nil || *peer.Cred != cred {
		t.Errorf("%s: the peer is %+v with %+v; want unix, %s, %+v", name, peer, peer.Cred, path, cred)
	}
}

// TestPeerCannotChooseItsAddress: a name like this one would pass for an address
// of the network.
func TestPeerCannotChooseItsAddress(t *testing.T) {
	l := listen(t, New())
	t.Chdir(filepath.Dir(l.Address().Addr))
	conn, err := net.DialUnix("unix", &net.UnixAddr{Net: "unix", Name: "10.0.0.1:80"},
		&net.UnixAddr{Net: "unix", Name: l.Address().Addr})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	accepted, err := l.Accept(within(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = accepted.Socket.Close() }()
	if accepted.Peer.Address != l.Address().Addr {
		t.Errorf("the peer is named %q", accepted.Peer.Address)
	}
}

func TestCloseRemovesTheSocket(t *testing.T) {
	l := listen(t, New())
	for range 2 {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Lstat(l.Address().Addr); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the path is still there: %v", err)
	}
}

func TestSocketOfAKilledServerIsReplaced(t *testing.T) {
	path := socketPath(t)
	killed, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	killed.SetUnlinkOnClose(false)
	if err := killed.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := New().Listen(within(t), transport.Address{Addr: path})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func TestListenErrorsSayWhatToDo(t *testing.T) {
	taken := listen(t, New()).Address()
	file := socketPath(t)
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path  string
		cause error
		says  []string
	}{
		{taken.Addr, syscall.EADDRINUSE, []string{"in use by a running server", "choose another path"}},
		{file, nil, []string{"something else of that name", "left alone"}},
		{"/does/not/exist/sock", syscall.ENOENT, []string{"make its directory first"}},
	} {
		l, err := New().Listen(within(t), transport.Address{Addr: c.path})
		if err == nil {
			_ = l.Close()
		}
		wants(t, err, c.cause, append(c.says, "listen on "+c.path+": ")...)
	}
	if text, err := os.ReadFile(file); string(text) != "precious" {
		t.Errorf("the file holds %q, %v", text, err)
	}
}

func TestDialErrorsSayWhatToDo(t *testing.T) {
	dir := filepath.Dir(socketPath(t))
	at := func(name string) string { return filepath.Join(dir, name) }
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: at("dead"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	other, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: at("datagrams"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	if err := errors.Join(dead.Close(), os.WriteFile(at("file"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		cause error
		says  string
	}{
		{"nothing", syscall.ENOENT, "there is no such socket; check the path, and that the server runs"},
		{"file/sock", syscall.ENOTDIR, "there is no such socket"},
		{"dead", syscall.ECONNREFUSED, "its server has ended"},
		{"file", syscall.ECONNREFUSED, "that is no socket"},
		{"datagrams", syscall.EPROTOTYPE, "another kind"},
	} {
		conn, err := New().Dial(within(t), transport.Address{Addr: at(c.name)}, transport.Address{})
		if err == nil {
			_ = conn.Socket.Close()
		}
		wants(t, err, c.cause, c.says, "connect to "+at(c.name)+": ")
		if err != nil && strings.Count(err.Error(), at(c.name)) != 1 {
			t.Errorf("the error names the path more than once: %v", err)
		}
	}
}

func TestUserWithoutTheRightIsToldSo(t *testing.T) {
	l := listen(t, New())
	path := l.Address().Addr
	open(t, path)
	if err := os.Chmod(path, 0); err != nil {
		t.Fatal(err)
	}
	refusal, _ := as(t, func() (error, error) {
		conn, err := New().Dial(within(t), l.Address(), transport.Address{})
		if err == nil {
			_ = conn.Socket.Close()
		}
		return err, nil
	})
	wants(t, refusal, syscall.EACCES, "this user may not connect", path)
}

func TestBindIsRefused(t *testing.T) {
	l := listen(t, New())
	for _, bind := range []transport.Address{{Addr: "/tmp/me"}, {Port: 1}} {
		conn, err := New().Dial(within(t), l.Address(), bind)
		if err == nil {
			_ = conn.Socket.Close()
		}
		wants(t, err, nil, "leave the bind address out", l.Address().Addr)
	}
}

func TestDialWaitsForAPlaceInTheQueue(t *testing.T) {
	l, at := fullSocket(t)
	result := make(chan error, 1)
	go func() {
		conn, err := New().Dial(within(t), at, transport.Address{})
		if err == nil {
			_ = conn.Socket.Close()
		}
		result <- err
	}()
	accepted, err := l.Accept() // makes one place
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = accepted.Close() }()
	if err := <-result; err != nil {
		t.Error(err)
	}
}

func TestDialToAFullQueueSaysWhyItEnded(t *testing.T) {
	_, at := fullSocket(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*firstPause)
	defer cancel()
	_, err := New().Dial(ctx, at, transport.Address{})
	wants(t, err, context.DeadlineExceeded, "its queue is full", at.Addr)
}

func TestZeroTransportLogsToDefault(t *testing.T) {
	if got := New().(*Transport).logger(); got != hclog.Default() {
		t.Errorf("the logger is %v", got)
	}
	own := hclog.NewNullLogger()
	if got := (&Transport{Log: own}).logger(); got != own {
		t.Errorf("the logger is %v, want the one that was set", got)
	}
}
