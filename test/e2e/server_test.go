// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/flexnbd/flexnbd/core/control"
)

// server is a running `flexnbd serve` or `flexnbd listen`.
type server struct {
	t      *testing.T
	cmd    *exec.Cmd
	sock   string
	run    string // where it keeps the plugins' sockets
	addr   string // where it listens: host:port, or the path of a socket
	in     surroundings
	log    output // its standard error
	exited chan struct{}

	plugins []int // the process numbers of those that status has named
}

// stopTime is how long a server may take to end, its own limits and a busy machine
// included.
const stopTime = 40 * time.Second

// serve starts a server on 127.0.0.1, waits until it is ready, and at the end of
// the test stops it and checks that it ended well, if the test has not done so.
// arguments are those beside --addr, --port and --sock.
func serve(t *testing.T, arguments ...string) *server {
	t.Helper()
	return serveIn(t, surroundings{}, arguments...)
}

// surroundings are what a server is started in.
type surroundings struct {
	environment []string // variables besides the test's own
	uid         int      // the user that it runs as, when not 0
	network     string   // tcp, which "" means too, or unix
	addr        string   // where it listens, when not on 127.0.0.1 or at a socket in its folder
	port        string   // which port, when not one that the kernel picks
	oldKernel   bool     // with a kernel that does not know Landlock
}

// where are the arguments that say where a server listens.
func (in surroundings) where(dir string) []string {
	addr := in.addr
	if in.network == "unix" {
		if addr == "" {
			addr = filepath.Join(dir, "nbd")
		}
		return []string{"--transport", "unix", "--addr", addr}
	}
	if addr == "" {
		addr = "127.0.0.1"
	}
	port := in.port
	if port == "" {
		port = "0"
	}
	return []string{"--addr", addr, "--port", port}
}

// serveIn is serve in other surroundings.
func serveIn(t *testing.T, in surroundings, arguments ...string) *server {
	t.Helper()
	s := start(t, in, "serve", arguments...)
	s.waitReady()
	return s
}

// waitReady waits until the control socket answers, and notes where the server
// listens.
func (s *server) waitReady() {
	s.t.Helper()
	eventually(s.t, "the server is ready", s.ready)
	s.addr = s.status()["address"]
}

// start starts a server, and waits for nothing.
func start(t *testing.T, in surroundings, verb string, arguments ...string) *server {
	t.Helper()
	dir := shortDir(t)
	s := &server{t: t, in: in, sock: filepath.Join(dir, "sock"), run: filepath.Join(dir, "run"), exited: make(chan struct{})}
	if err := os.Mkdir(s.run, 0o700); err != nil {
		t.Fatal(err)
	}
	// Else records would be left on the machine.
	command := append([]string{verb, "--sock", s.sock, "--state-dir", filepath.Join(dir, "state")}, in.where(dir)...)
	s.cmd = exec.Command(programs.flexnbd, append(command, arguments...)...)
	s.cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+s.run)
	s.cmd.Env = append(s.cmd.Env, in.environment...)
	if in.oldKernel {
		s.cmd.Path, s.cmd.Args = "/proc/self/exe", append([]string{"old-kernel"}, s.cmd.Args...)
		s.cmd.Env = append(s.cmd.Env, oldKernel+"=1")
	}
	if in.uid != 0 {
		s.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(in.uid), Gid: uint32(in.uid)}}
		for _, d := range []string{dir, s.run} {
			if err := os.Chown(d, in.uid, in.uid); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.cmd.Stderr = &s.log
	s.cmd.WaitDelay = time.Second
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = s.cmd.Wait() // ProcessState tells
		close(s.exited)
	}()
	t.Cleanup(s.cleanUp)
	return s
}

// shortDir makes a temporary folder whose path leaves room for the name of a Unix
// socket, which t.TempDir's does not.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "flexnbd-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// ready says whether the control socket answers; a server that has ended will
// never.
func (s *server) ready() bool {
	select {
	case <-s.exited:
		s.t.Fatalf("the server ended at once: %v\n%s", s.cmd.ProcessState, s.log.String())
	default:
	}
	conn, err := net.Dial("unix", s.sock)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// status asks for the status with the command.
func (s *server) status() map[string]string {
	s.t.Helper()
	return s.noted(must(s.t, programs.flexnbd, "status", "--sock", s.sock))
}

// state is status without a process of its own, for those who ask often.
func (s *server) state() map[string]string {
	s.t.Helper()
	answer, err := control.Call(s.t.Context(), s.sock, "status")
	if err != nil || answer.Code != 0 {
		s.t.Fatalf("status: %+v, %v\n%s", answer, err, s.log.String())
	}
	return s.noted(answer.Text + "\n")
}

// noted reads a status, and notes the plugins in it.
func (s *server) noted(line string) map[string]string {
	s.t.Helper()
	values := pairs(s.t, line)
	for _, key := range []string{"backend_pid", "transport_pid"} {
		text, has := values[key]
		if !has && key == "transport_pid" {
			continue // it does not listen any more
		}
		if pid := number(s.t, text); !slices.Contains(s.plugins, pid) {
			s.plugins = append(s.plugins, pid)
		}
	}
	return values
}

// pairs reads what `flexnbd status` prints.
func pairs(t *testing.T, line string) map[string]string {
	t.Helper()
	text, ended := strings.CutSuffix(line, "\n")
	if !ended || strings.Contains(text, "\n") {
		t.Fatalf("status is no single line: %q", line)
	}
	values := map[string]string{}
	for field := range strings.SplitSeq(text, " ") {
		key, value, ok := strings.Cut(field, "=")
		if _, twice := values[key]; !ok || twice || key == "" {
			t.Fatalf("status has a bad field %q: %q", field, line)
		}
		values[key] = value
	}
	return values
}

func number(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatalf("%q is no number", s)
	}
	return n
}

// uri is the server's address for NBD clients.
func (s *server) uri() string {
	if s.in.network == "unix" {
		return "nbd+unix:///?socket=" + s.addr
	}
	return "nbd://" + s.addr
}

// connect makes a connection to the server.
func (s *server) connect() (net.Conn, error) {
	network := s.in.network
	if network == "" {
		network = "tcp"
	}
	return net.Dial(network, s.addr)
}

func (s *server) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatalf("%v: %v", sig, err)
	}
}

// wait waits for the server's end and returns its exit status.
func (s *server) wait() int {
	s.t.Helper()
	select {
	case <-s.exited:
		return s.cmd.ProcessState.ExitCode()
	case <-time.After(stopTime):
		s.t.Fatalf("the server does not end within %v\n%s", stopTime, s.log.String())
		return -1
	}
}

// stop ends the server with a signal and checks that it ended well.
func (s *server) stop(sig syscall.Signal) {
	s.t.Helper()
	s.signal(sig)
	s.endedWith(0)
}

// endedWith waits for the end and checks what is left of the server: nothing.
func (s *server) endedWith(status int) {
	s.t.Helper()
	if got := s.wait(); got != status {
		s.t.Errorf("the server's exit status is %d (%v), want %d\n%s", got, s.cmd.ProcessState, status, s.log.String())
	}
	if _, err := os.Lstat(s.sock); !errors.Is(err, fs.ErrNotExist) {
		s.t.Errorf("the control socket is still there (%v)", err)
	}
	s.pluginsEnd()
	if left, err := os.ReadDir(s.run); err != nil || len(left) > 0 {
		s.t.Errorf("left behind in the runtime folder: %v (%v)", left, err)
	}
	if status == 0 && strings.Contains(s.log.String(), "does not end by itself") {
		s.t.Errorf("a plugin had to be killed:\n%s", s.log.String())
	}
	if strings.Contains(s.log.String(), "WARNING: DATA RACE") {
		s.t.Errorf("a race was detected:\n%s", s.log.String())
	}
}

// pluginsEnd waits for the plugins to be gone.
func (s *server) pluginsEnd() {
	s.t.Helper()
	for _, pid := range s.plugins {
		eventually(s.t, "plugin "+strconv.Itoa(pid)+" has ended", func() bool { return processGone(pid) })
	}
}

// cleanUp stops a server that still runs. A test that has failed need not wait
// for a graceful end, and shows what the server has said.
func (s *server) cleanUp() {
	select {
	case <-s.exited:
	default:
		if !s.t.Failed() {
			s.stop(syscall.SIGTERM)
			break
		}
		_ = s.cmd.Process.Kill()
		<-s.exited
	}
	if s.t.Failed() {
		for _, pid := range s.plugins {
			if !processGone(pid) {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		s.t.Logf("the server's standard error:\n%s", s.log.String())
	}
}
