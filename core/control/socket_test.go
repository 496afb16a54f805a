// SPDX-License-Identifier: GPL-3.0-or-later

package control

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
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
		s, err := Listen(path, Private, hclog.NewNullLogger())
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

func TestStaleSocketIsReplaced(t *testing.T) {
	path := socketPath(t)
	stale(t, path)
	serve(t, listen(t, path), verbs)
	call(t, path, "echo")
}

func TestSocketThatAnswersIsNotTaken(t *testing.T) {
	path := socketPath(t)
	serve(t, listen(t, path), verbs)
	_, err := Listen(path, Private, hclog.NewNullLogger())
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "control socket "+path+": it is in use by a running server") {
		t.Errorf("have %v", err)
	}
	call(t, path, "echo")
}

func TestSocketThatIsNotServedYetIsNotTaken(t *testing.T) {
	path := socketPath(t)
	listen(t, path)
	if _, err := Listen(path, Private, hclog.NewNullLogger()); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("have %v", err)
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

func TestFailureToRemoveThePathNamesIt(t *testing.T) {
	path := socketPath(t)
	s := listen(t, path)
	if err := os.RemoveAll(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Dir(path), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err == nil || !strings.HasPrefix(err.Error(), "control socket "+path+": ") {
		t.Errorf("have %v", err)
	}
}

func TestBadPaths(t *testing.T) {
	for _, c := range []struct{ path, want string }{
		{"", `control socket "": the path is empty`},
		{"/tmp/" + strings.Repeat("x", 103), "108 bytes, and the kernel takes 107"},
		{"/tmp/a\x00b", `control socket "/tmp/a\x00b": the path holds a NUL byte`},
		{"/does/not/exist/sock", "control socket /does/not/exist/sock: make its directory first"},
	} {
		if s, err := Listen(c.path, Private, hclog.NewNullLogger()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.40q: have %v, server %v", c.path, err, s)
		}
	}
}

func TestPathThatBeginsWithAtIsAFile(t *testing.T) {
	t.Chdir(filepath.Dir(socketPath(t)))
	serve(t, listen(t, "@sock"), verbs)
	if _, err := os.Lstat("@sock"); err != nil {
		t.Error(err)
	}
	call(t, "@sock", "echo")
}
