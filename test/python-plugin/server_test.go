// SPDX-License-Identifier: GPL-3.0-or-later

package pythonplugin

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/flexnbd/flexnbd/core/control"
)

// server is a `flexnbd serve` or `flexnbd listen`.
type server struct {
	t      *testing.T
	cmd    *exec.Cmd
	sock   string
	run    string // where it keeps the plugins' sockets
	log    logged
	exited chan struct{}
}

// start starts a server on 127.0.0.1, with records in a folder of its own, and waits
// until it is ready. The test ends it; one that has failed need not.
func start(t *testing.T, verb string, args ...string) *server {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "fnbd") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &server{t: t, sock: filepath.Join(dir, "sock"), run: filepath.Join(dir, "run"), exited: make(chan struct{})}
	if err := os.Mkdir(s.run, 0o700); err != nil {
		t.Fatal(err)
	}
	s.cmd = exec.Command(programs.flexnbd, append([]string{verb, "--sock", s.sock, "--state-dir", filepath.Join(dir, "state"),
		"--addr", "127.0.0.1", "--port", "0"}, args...)...)
	s.cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+s.run)
	s.cmd.Stderr = &s.log
	s.cmd.WaitDelay = time.Second
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = s.cmd.Wait() // ProcessState tells
		close(s.exited)
	}()
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		<-s.exited
		if t.Failed() {
			t.Logf("the server's standard error:\n%s", s.log.String())
		}
	})
	eventually(t, "the server is ready", func() bool {
		select {
		case <-s.exited:
			t.Fatalf("the server ended at once: %v", s.cmd.ProcessState)
		default:
		}
		return s.answers()
	})
	return s
}

func (s *server) answers() bool {
	answer, err := control.Call(s.t.Context(), s.sock, "status")
	return err == nil && answer.Code == 0
}

// state is what `flexnbd status` shows.
func (s *server) state() map[string]string {
	s.t.Helper()
	answer, err := control.Call(s.t.Context(), s.sock, "status")
	if err != nil || answer.Code != 0 {
		s.t.Fatalf("status: %+v, %v", answer, err)
	}
	values := map[string]string{}
	for field := range strings.FieldsSeq(answer.Text) {
		key, value, _ := strings.Cut(field, "=")
		values[key] = value
	}
	return values
}

func (s *server) uri() string { return "nbd://" + s.state()["address"] }

// endsWith waits for the server's end and checks that nothing is left of it.
func (s *server) endsWith(status int) {
	s.t.Helper()
	select {
	case <-s.exited:
	case <-time.After(patience):
		s.t.Fatalf("the server does not end within %v", patience)
	}
	if got := s.cmd.ProcessState.ExitCode(); got != status {
		s.t.Errorf("the server's exit status is %d (%v), want %d", got, s.cmd.ProcessState, status)
	}
	if left, err := os.ReadDir(s.run); err != nil || len(left) > 0 {
		s.t.Errorf("left behind in the runtime folder: %v (%v)", left, err)
	}
	if strings.Contains(s.log.String(), "does not end by itself") {
		s.t.Error("a plugin had to be killed")
	}
}

func (s *server) stop(status int) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		s.t.Fatal(err)
	}
	s.endsWith(status)
}

// run runs a program to its end and returns what it printed.
func run(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
	return string(out), err
}

// must runs a program that has to succeed.
func must(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := run(t, name, args...)
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return out
}
