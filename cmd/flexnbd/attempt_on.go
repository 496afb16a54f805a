// SPDX-License-Identifier: GPL-3.0-or-later

//go:build failpoints

package main

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/core/control"
)

// testVerbs are what the control socket of a build for tests answers besides: attempts
// to do what the sandbox should prevent, as somebody would who has taken over the
// process.
func testVerbs() map[string]control.Verb { return map[string]control.Verb{"attempt": attempt} }

// attempt answers with the error of one attempt: a word, and what it is about.
func attempt(_ context.Context, args []string) control.Answer {
	if len(args) != 2 || attempts[args[0]] == nil {
		return no("attempt WHAT ON")
	}
	err := attempts[args[0]](args[1])
	if errno := syscall.Errno(0); errors.As(err, &errno) {
		return control.Answer{Text: errno.Error()}
	} else if err != nil {
		return control.Answer{Text: err.Error()}
	}
	return control.Answer{Text: "done"}
}

var attempts = map[string]func(on string) error{
	"read":    func(path string) error { _, err := os.ReadFile(path); return err },
	"list":    func(path string) error { _, err := os.ReadDir(path); return err },
	"write":   func(path string) error { return os.WriteFile(path, []byte("x"), 0o600) },
	"mkdir":   func(path string) error { return os.Mkdir(path, 0o700) },
	"remove":  os.Remove,
	"chmod":   func(path string) error { return os.Chmod(path, 0o777) },
	"start":   func(path string) error { return exec.Command(path).Run() },
	"become":  func(path string) error { return syscall.Exec(path, []string{path}, nil) },
	"trace":   func(pid string) error { n, _ := strconv.Atoi(pid); return unix.PtraceSeize(n) },
	"mount":   func(path string) error { return unix.Mount("none", path, "tmpfs", 0, "") },
	"connect": func(address string) error { return hangUp(net.Dial("tcp", address)) },
	"listen":  func(address string) error { return hangUp(net.Listen("tcp", address)) },
}

func hangUp[C interface{ Close() error }](c C, err error) error {
	if err != nil {
		return err
	}
	return c.Close()
}
