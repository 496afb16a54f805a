// SPDX-License-Identifier: GPL-3.0-or-later

package launch

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// This binary is also the launcher, and the programs that it starts.
func TestMain(m *testing.M) {
	if IsLauncher(os.Args) {
		if err := Serve(openFor, func(dir string) { _ = os.Remove(filepath.Join(dir, "swept")) }); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if IsChild(os.Args) {
		args, confined, err := Become()
		if err != nil {
			os.Exit(1)
		}
		look(args, confined)
		return
	}
	// A process with the race detector sleeps for a second when it ends, unless it is
	// told not to.
	if err := os.Setenv("GORACE", "atexit_sleep_ms=0"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// openFor opens a plan's bundle, a file in these tests. A FIFO holds it up.
func openFor(p Plan) (*os.File, error) { return os.Open(p.Bundle) }

// seen is what a started process finds about itself.
type seen struct {
	Args, Env   []string
	Descriptors []string
	Stdin       string
	UID         int
	Group       int
	Parent      int
	Confined    bool
	Passwd      string // the error of reading it
	Capability  bool   // CAP_NET_BIND_SERVICE is there
}

// look prints what it sees, then waits for the end of descriptor 3.
func look(args []string, confined bool) {
	s := seen{Args: args, Env: os.Environ(), UID: os.Geteuid(), Group: unix.Getpgrp(), Parent: os.Getppid(), Confined: confined}
	for fd := range 64 { // those of Go's own are close-on-exec
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			s.Descriptors = append(s.Descriptors, fmt.Sprint(fd))
		}
	}
	s.Stdin, _ = os.Readlink("/proc/self/fd/0")
	if _, err := os.ReadFile("/etc/passwd"); err != nil {
		s.Passwd = err.Error()
	}
	status, _ := os.ReadFile("/proc/self/status")
	s.Capability = strings.Contains(string(status), "CapEff:\t0000000000000400")
	sort.Strings(s.Env)
	_ = json.NewEncoder(os.Stdout).Encode(s)
	_ = os.Stdout.Close()
	var b [1]byte
	_, _ = unix.Read(fdChannel, b[:])
	os.Exit(7)
}

// launcher starts one with these plans, for one test.
func launcher(t *testing.T, plans ...Plan) (*Launcher, string) {
	t.Helper()
	dir := t.TempDir()
	l, err := New(Options{Plans: plans, Keys: []string{"ONE", "SOME_"}, SocketDirs: dir, SocketDirKey: "SOME_DIR"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l, dir
}

// ordered is a process that was asked for.
type ordered struct {
	*Started
	output  *os.File
	channel *os.File // its other end
}

func order1(t *testing.T, l *Launcher, plan int, env ...string) ordered {
	t.Helper()
	output, stdout, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	theirs, ours, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdout.Close()
	defer theirs.Close()
	s, err := l.Start(Request{Plan: plan, Env: env, Stdout: stdout, Stderr: os.Stderr, Channel: theirs})
	if err != nil {
		output.Close()
		ours.Close()
		t.Fatal(err)
	}
	o := ordered{s, output, ours}
	t.Cleanup(func() {
		_ = o.Close()
		_ = output.Close()
		_ = ours.Close()
	})
	return o
}

// running waits until it is the program, and returns what it printed.
func (o ordered) running(t *testing.T) (*os.Process, string) {
	t.Helper()
	pid, err := o.PID()
	if err != nil {
		t.Fatal(err)
	}
	p, err := os.FindProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Running(); err != nil {
		_, _ = p.Wait()
		t.Fatal(err)
	}
	text, err := io.ReadAll(o.output)
	if err != nil {
		t.Fatal(err)
	}
	return p, string(text)
}

// looked is running for a process that looks at itself.
func (o ordered) looked(t *testing.T) (*os.Process, seen) {
	t.Helper()
	p, text := o.running(t)
	var s seen
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		t.Fatalf("%v: %q", err, text)
	}
	return p, s
}

// ends lets the process end and waits for it.
func (o ordered) ends(t *testing.T, p *os.Process) {
	t.Helper()
	_ = o.channel.Close()
	state, err := p.Wait()
	if err != nil || state.ExitCode() != 7 {
		t.Errorf("it ended with %v, %v", state, err)
	}
}

// noChildren checks that this process has none but the launcher.
func noChildren(t *testing.T, l *Launcher) {
	t.Helper()
	for {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if err == nil || errors.Is(err, unix.ECHILD) {
			break
		}
	}
	files, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, _ := os.ReadFile(f)
		for _, pid := range strings.Fields(string(text)) {
			if pid != fmt.Sprint(l.PID()) {
				t.Errorf("process %s is left", pid)
			}
		}
	}
}

var isErrno = func(err error, errno syscall.Errno) bool { return errors.Is(err, errno) }
