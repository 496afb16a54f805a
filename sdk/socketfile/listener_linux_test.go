// SPDX-License-Identifier: Apache-2.0

package socketfile

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// socketPath is a path for a socket that is short enough wherever tests run.
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "fnbd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "sock")
}

func listen(t *testing.T, path string) *Listener {
	t.Helper()
	l, err := Listen(t.Context(), path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// refused says that Listen fails, with an error that wraps cause and says what.
func refused(t *testing.T, path string, cause error, what string) {
	t.Helper()
	l, err := Listen(t.Context(), path, 0o600)
	if err == nil {
		t.Errorf("%.60q: taken", path)
		_ = l.Close()
		return
	}
	if !strings.Contains(err.Error(), what) {
		t.Errorf("%.60q: the error does not say %q: %v", path, what, err)
	}
	if cause != nil && !errors.Is(err, cause) {
		t.Errorf("%.60q: the error does not wrap %v: %v", path, cause, err)
	}
}

// answers says that l is reached at path.
func answers(t *testing.T, l *Listener, path string) {
	t.Helper()
	dialled, err := net.DialUnix("unix", nil, Addr(path))
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = dialled.Close() }()
	if err := l.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	accepted, err := l.AcceptUnix()
	if err != nil {
		t.Errorf("the connection does not arrive: %v", err)
		return
	}
	defer func() { _ = accepted.Close() }()
	if _, err := accepted.Write([]byte{1}); err != nil {
		t.Error(err)
	}
	var one [1]byte
	if err := dialled.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := dialled.Read(one[:]); err != nil || one[0] != 1 {
		t.Errorf("read %v, %v: another socket answered", one, err)
	}
}

// stale leaves a socket behind as a killed server does.
func stale(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestModeIsWhatWasAskedForWhateverTheUmask(t *testing.T) {
	for _, umask := range []int{0, 0o022, 0o077, 0o777} {
		for _, perm := range []fs.FileMode{0o600, 0o660, 0o666} {
			path := socketPath(t)
			old := syscall.Umask(umask)
			l, err := Listen(t.Context(), path, perm)
			syscall.Umask(old)
			if err != nil {
				t.Fatalf("umask %#o, mode %#o: %v", umask, perm, err)
			}
			if file, err := os.Lstat(path); err != nil || file.Mode() != fs.ModeSocket|perm {
				t.Errorf("umask %#o, mode %#o: have %v, error %v", umask, perm, file.Mode(), err)
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestBindItselfMakesNoWiderMode looks at the mode that bind alone gives, before
// any later call could have changed it.
func TestBindItselfMakesNoWiderMode(t *testing.T) {
	for umask, want := range map[int]fs.FileMode{0: 0o660, 0o022: 0o640} {
		path := socketPath(t)
		old := syscall.Umask(umask)
		l, err := bind(t.Context(), path, 0o660)
		syscall.Umask(old)
		if err != nil {
			t.Fatal(err)
		}
		if file, err := os.Lstat(path); err != nil || file.Mode().Perm() != want {
			t.Errorf("umask %#o: mode %v, error %v", umask, file.Mode(), err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestModeOfALinksTargetIsLeftAlone: somebody who may write in the directory puts
// a link in the new socket's place.
func TestModeOfALinksTargetIsLeftAlone(t *testing.T) {
	path := socketPath(t)
	for name, make := range map[string]func(target string) error{
		"file":   func(target string) error { return os.WriteFile(target, nil, 0o600) },
		"socket": func(target string) error { stale(t, target); return os.Chmod(target, 0o600) },
	} {
		target := path + "." + name
		if err := make(target); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
		if _, err := settle(path, 0o666); err == nil {
			t.Errorf("a link to a %s passes for the new socket", name)
		}
		if file, err := os.Lstat(target); err != nil || file.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, error %v", name, file.Mode(), err)
		}
		_ = os.Remove(path)
	}
}

func TestListenTakesPermissionBitsOnly(t *testing.T) {
	path := socketPath(t)
	if l, err := Listen(t.Context(), path, fs.ModeSetgid|0o660); err == nil {
		t.Error("taken")
		_ = l.Close()
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	path := socketPath(t)
	stale(t, path)
	answers(t, listen(t, path), path)
}

func TestSocketThatAnswersIsNotTaken(t *testing.T) {
	path := socketPath(t)
	l := listen(t, path)
	refused(t, path, syscall.EADDRINUSE, "it is in use by a running server")
	answers(t, l, path)
}

// TestSocketIsNotTakenFromItsFirstMomentOn: it is bound before it listens, and its
// queue may be full later.
func TestSocketIsNotTakenFromItsFirstMomentOn(t *testing.T) {
	path := socketPath(t)
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Close(fd) }()
	if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	refused(t, path, syscall.EADDRINUSE, "it is in use by a running server")
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	for err == nil { // until the queue is full
		var conn net.Conn
		if conn, err = net.DialUnix("unix", nil, Addr(path)); err == nil {
			defer func() { _ = conn.Close() }()
		}
	}
	refused(t, path, syscall.EADDRINUSE, "it is in use by a running server")
}

func TestServerDoesNotNoticeThatItsSocketIsLookedAt(t *testing.T) {
	path := socketPath(t)
	l := listen(t, path)
	refused(t, path, syscall.EADDRINUSE, "in use")
	if err := l.SetDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if conn, err := l.Accept(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("accepted %v, %v", conn, err)
	}
}

func TestOneOfManyServersGetsThePath(t *testing.T) {
	path := socketPath(t)
	stale(t, path)
	const servers = 16
	var wg sync.WaitGroup
	won := make(chan *Listener, servers)
	for range servers {
		wg.Go(func() {
			l, err := Listen(t.Context(), path, 0o600)
			if err == nil {
				won <- l
			} else if !errors.Is(err, syscall.EADDRINUSE) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	close(won)
	if len(won) != 1 {
		t.Errorf("%d servers have the path", len(won))
	}
	for l := range won {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestWhatIsNoSocketIsLeftAlone(t *testing.T) {
	path := socketPath(t)
	target := path + ".target"
	stale(t, target)
	for name, make := range map[string]func() error{
		"file":      func() error { return os.WriteFile(path, []byte("precious"), 0o600) },
		"directory": func() error { return os.Mkdir(path, 0o700) },
		"link":      func() error { return os.Symlink(target, path) },
		"dangling":  func() error { return os.Symlink(path+".none", path) },
		"fifo":      func() error { return syscall.Mkfifo(path, 0o600) },
	} {
		if err := make(); err != nil {
			t.Fatal(err)
		}
		refused(t, path, nil, "something else of that name")
		if _, err := os.Lstat(path); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		_ = os.Remove(path)
	}
}

func TestDatagramSocketIsLeftAlone(t *testing.T) {
	path := socketPath(t)
	other, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	refused(t, path, syscall.EADDRINUSE, "in use")
	if _, err := os.Lstat(path); err != nil {
		t.Error(err)
	}
}

func TestCloseRemovesThePath(t *testing.T) {
	path := socketPath(t)
	l := listen(t, path)
	for range 2 {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the path is still there: %v", err)
	}
}

func TestCloseLeavesAnothersSocketAlone(t *testing.T) {
	path := socketPath(t)
	first := listen(t, path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	second := listen(t, path)
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	answers(t, second, path)
}

func TestCloseAfterThePathIsGone(t *testing.T) {
	path := socketPath(t)
	l := listen(t, path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func TestCloseSaysThatThePathIsStillThere(t *testing.T) {
	path := socketPath(t)
	l := listen(t, path)
	if err := os.RemoveAll(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Dir(path), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); !errors.Is(err, syscall.ENOTDIR) || !strings.Contains(err.Error(), path) {
		t.Errorf("have %v", err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept returns %v", err)
	}
}

func TestBadPathsAreRefused(t *testing.T) {
	file := socketPath(t)
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path  string
		cause error
		what  string
	}{
		{"", nil, "the path is empty"},
		{"/tmp/" + strings.Repeat("x", 103), nil, "108 bytes, and the kernel takes 107"},
		{"@" + strings.Repeat("x", 105), nil, "the kernel takes 107"},
		{"/tmp/a\x00b", nil, "NUL"},
		{"/does/not/exist/sock", fs.ErrNotExist, "make its directory first"},
		{file + "/sock", syscall.ENOTDIR, "not a directory"},
	} {
		refused(t, c.path, c.cause, c.what)
	}
}

func TestLongestPathWorks(t *testing.T) {
	dir := filepath.Dir(socketPath(t))
	path := filepath.Join(dir, strings.Repeat("x", MaxPath-len(dir)-1))
	answers(t, listen(t, path), path)
}

func TestPathThatBeginsWithAtIsAFile(t *testing.T) {
	t.Chdir(filepath.Dir(socketPath(t)))
	l := listen(t, "@sock")
	if _, err := os.Lstat("@sock"); err != nil {
		t.Error(err)
	}
	answers(t, l, "@sock")
}

func TestContextEndsTheWaitForTheDirectory(t *testing.T) {
	path := socketPath(t)
	unlock, err := lockDirectory(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*lockPause)
	defer cancel()
	if l, err := Listen(ctx, path, 0o600); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while the directory is locked, Listen returns %v, %v", l, err)
	}
	if l, err := Listen(ctx, path, 0o600); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("with a context that has ended, Listen returns %v, %v", l, err)
	}
	unlock()
	answers(t, listen(t, path), path)
}
