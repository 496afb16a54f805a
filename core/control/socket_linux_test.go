// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/hashicorp/go-hclog"
)

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

func TestModeIs0600WhateverTheUmask(t *testing.T) {
	for _, umask := range []int{0, 0o022, 0o077} {
		path := socketPath(t)
		old := syscall.Umask(umask)
		s, err := Listen(path, hclog.NewNullLogger())
		syscall.Umask(old)
		if err != nil {
			t.Fatal(err)
		}
		if file, err := os.Lstat(path); err != nil || file.Mode() != fs.ModeSocket|0o600 {
			t.Errorf("umask %#o: mode %v, error %v", umask, file.Mode(), err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestBindItselfMakesMode0600 looks at the mode that bind alone gives, before
// any later call could have narrowed it.
func TestBindItselfMakesMode0600(t *testing.T) {
	path := socketPath(t)
	old := syscall.Umask(0)
	l, err := listenPrivate(path)
	syscall.Umask(old)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if file, err := os.Lstat(path); err != nil || file.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, error %v", file.Mode(), err)
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	path := socketPath(t)
	stale(t, path)
	serve(t, listen(t, path), verbs)
	call(t, path, "echo")
}

func TestSocketThatAnswersIsNotTaken(t *testing.T) {
	path := socketPath(t)
	serve(t, listen(t, path), verbs)
	_, err := Listen(path, hclog.NewNullLogger())
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), path+" is in use by a running server") {
		t.Errorf("have %v", err)
	}
	call(t, path, "echo")
}

func TestSocketThatIsNotServedYetIsNotTaken(t *testing.T) {
	path := socketPath(t)
	listen(t, path)
	if _, err := Listen(path, hclog.NewNullLogger()); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("have %v", err)
	}
}

func TestOneOfManyServersGetsThePath(t *testing.T) {
	path := socketPath(t)
	stale(t, path)
	const servers = 16
	var wg sync.WaitGroup
	won := make(chan *Server, servers)
	for range servers {
		wg.Go(func() {
			s, err := Listen(path, hclog.NewNullLogger())
			if err == nil {
				won <- s
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
	for s := range won {
		if err := s.Close(); err != nil {
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
		if s, err := Listen(path, hclog.NewNullLogger()); err == nil {
			t.Errorf("%s: taken", name)
			_ = s.Close()
		}
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
	if s, err := Listen(path, hclog.NewNullLogger()); err == nil {
		t.Error("taken")
		_ = s.Close()
	}
	if _, err := os.Lstat(path); err != nil {
		t.Error(err)
	}
}

func TestCloseLeavesAnothersSocketAlone(t *testing.T) {
	path := socketPath(t)
	first := listen(t, path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	serve(t, listen(t, path), verbs)
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	call(t, path, "echo")
}

func TestCloseAfterThePathIsGone(t *testing.T) {
	path := socketPath(t)
	s := listen(t, path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestBadPaths(t *testing.T) {
	for _, c := range []struct{ path, want string }{
		{"", "the path is empty"},
		{"/tmp/" + strings.Repeat("x", 103), "108 bytes, and the kernel takes 107"},
		{"/tmp/a\x00b", "NUL"},
		{"/does/not/exist/sock", "no such file or directory"},
	} {
		if s, err := Listen(c.path, hclog.NewNullLogger()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.40q: have %v, server %v", c.path, err, s)
		}
	}
}

func TestLongestPathWorks(t *testing.T) {
	dir := filepath.Dir(socketPath(t))
	path := filepath.Join(dir, strings.Repeat("x", maxPath-len(dir)-1))
	serve(t, listen(t, path), verbs)
	call(t, path, "echo")
}

func TestPathThatBeginsWithAtIsAFile(t *testing.T) {
	t.Chdir(filepath.Dir(socketPath(t)))
	serve(t, listen(t, "@sock"), verbs)
	if _, err := os.Lstat("@sock"); err != nil {
		t.Error(err)
	}
	call(t, "@sock", "echo")
}
