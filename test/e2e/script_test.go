// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// TestScripts runs test/script/*.txtar. Beside testscript's own commands
// (https://pkg.go.dev/github.com/rogpeppe/go-internal/testscript) they have:
//
//	exits STATUS PROGRAM ARGUMENT...
//	    runs a program, which has to end with exactly this status; then stdout
//	    and stderr look at what it printed
//	serve NAME ARGUMENT...
//	    starts `flexnbd serve` with the control socket NAME.sock, on 127.0.0.1
//	    unless the arguments begin with --addr or --transport, waits until it
//	    is ready, and sets $NAME_address, $NAME_port if it has one, and
//	    $NAME_pid. Its standard error goes to the file NAME.log
//	listen NAME ARGUMENT...
//	    the same with `flexnbd listen`
//	author
//	    makes the script's `go` that of a third party, who has nothing of this
//	    tree but the SDK, from a module proxy as `make dist` makes it
//	quote FILE
//	    makes FILE of the code that PLUGINS.md shows under that name
//	stop NAME
//	    ends that server with SIGTERM; it has to exit with 0, as it has to at
//	    the end of the script when it has not been stopped
//	gone NAME
//	    waits until that server, which something has killed, has ended
//	size FILE BYTES
//	    makes a sparse file of this size, or gives one this size
//	fifo FILE
//	    makes a FIFO
//	long NAME
//	    sets $NAME to a file name of 120 bytes
//	closed NAME
//	    sets $NAME to a port of 127.0.0.1 on which nobody listens
//	greeter NAME TEXT
//	    sets $NAME to a port on which everybody is greeted with TEXT, and then
//	    the connection is closed
//
// flexnbd is on the PATH; $memory is the memory backend, $traced the traced one,
// $plugins the folder with the separate stock plugins. At its end a script has to
// have left nothing in the runtime folder.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                filepath.Join("..", "script"),
		RequireUniqueNames: true,
		Deadline:           time.Now().Add(commandTime), // for what hangs
		Setup:              setUpScript,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":   scriptExits,
			"serve":   scriptStart("serve"),
			"listen":  scriptStart("listen"),
			"author":  scriptAuthor,
			"quote":   scriptQuote,
			"stop":    scriptStop,
			"gone":    scriptGone,
			"size":    scriptSize,
			"fifo":    scriptFIFO,
			"long":    scriptLong,
			"closed":  scriptClosed,
			"greeter": scriptGreeter,
		},
	})
}

func setUpScript(env *testscript.Env) error {
	run, err := os.MkdirTemp("/tmp", "flexnbd-")
	if err != nil {
		return err
	}
	env.Defer(func() {
		left, err := os.ReadDir(run)
		_ = os.RemoveAll(run)
		if err != nil || len(left) > 0 {
			env.T().Fatal("left behind in the runtime folder:", left, err)
		}
	})
	env.Setenv("XDG_RUNTIME_DIR", run)
	env.Setenv("PATH", filepath.Dir(programs.flexnbd)+string(filepath.ListSeparator)+env.Getenv("PATH"))
	env.Setenv("memory", programs.memory)
	env.Setenv("traced", programs.traced)
	env.Setenv("plugins", programs.plugins)
	env.Values[servers{}] = map[string]*scriptServer{}
	return nil
}

// servers is the key of a script's servers.
type servers struct{}

type scriptServer struct {
	cmd    *exec.Cmd
	exited chan error
}

// usage ends a script whose command is written wrongly.
func usage(ts *testscript.TestScript, neg, ok bool, form string) {
	if neg || !ok {
		ts.Fatalf("usage: %s", form)
	}
}

func scriptExits(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) >= 2, "exits STATUS PROGRAM ARGUMENT...")
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		ts.Fatalf("%s: %v", args[1], err)
	}
	got := 0
	if exit != nil {
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("%s: exit status %d, want %d", args[1], got, want)
	}
}

func scriptStart(verb string) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) { scriptServe(ts, neg, verb, args) }
}

func scriptServe(ts *testscript.TestScript, neg bool, verb string, args []string) {
	usage(ts, neg, len(args) >= 1, verb+" NAME ARGUMENT...")
	name, sock := args[0], ts.MkAbs(args[0]+".sock")
	log, err := os.Create(ts.MkAbs(name + ".log"))
	ts.Check(err)
	defer func() { _ = log.Close() }()
	arguments := []string{verb, "--sock", sock, "--state-dir", ts.MkAbs("state")}
	if len(args) == 1 || args[1] != "--addr" && args[1] != "--transport" {
		arguments = append(arguments, "--addr", "127.0.0.1", "--port", "0")
	}
	cmd := exec.Command(programs.flexnbd, append(arguments, args[1:]...)...)
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = os.Environ()
	for _, name := range []string{"XDG_RUNTIME_DIR", "FLEXNBD_PLUGIN_PATH"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	cmd.Stderr = log
	ts.Check(cmd.Start())
	s := &scriptServer{cmd: cmd, exited: make(chan error, 1)}
	go func() { s.exited <- cmd.Wait() }()
	all := ts.Value(servers{}).(map[string]*scriptServer)
	all[name] = s
	ts.Defer(func() {
		if _, runs := all[name]; runs {
			endScriptServer(ts, name, s)
		}
	})
	address := s.waitReady(ts, name, sock)
	ts.Setenv(name+"_address", address)
	if _, port, err := net.SplitHostPort(address); err == nil {
		ts.Setenv(name+"_port", port)
	}
	ts.Setenv(name+"_pid", strconv.Itoa(cmd.Process.Pid))
}

// waitReady waits until the control socket answers, and returns where the server
// listens.
func (s *scriptServer) waitReady(ts *testscript.TestScript, name, sock string) string {
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		select {
		case err := <-s.exited:
			s.exited <- err
			ts.Fatalf("server %s ended at once: %v\n%s", name, err, ts.ReadFile(name+".log"))
		case <-time.After(5 * time.Millisecond):
		}
		conn, err := net.Dial("unix", sock)
		if err != nil {
			continue
		}
		_ = conn.Close()
		text, err := exec.Command(programs.flexnbd, "status", "--sock", sock).Output()
		ts.Check(err)
		for field := range strings.FieldsSeq(string(text)) {
			if address, ok := strings.CutPrefix(field, "address="); ok {
				return address
			}
		}
		ts.Fatalf("status says no address: %s", text)
	}
	ts.Fatalf("server %s is not ready after %v\n%s", name, patience, ts.ReadFile(name+".log"))
	return ""
}

func scriptStop(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1, "stop NAME")
	all := ts.Value(servers{}).(map[string]*scriptServer)
	s, ok := all[args[0]]
	if !ok {
		ts.Fatalf("there is no server %s", args[0])
	}
	delete(all, args[0])
	endScriptServer(ts, args[0], s)
}

func scriptGone(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1, "gone NAME")
	all := ts.Value(servers{}).(map[string]*scriptServer)
	s, ok := all[args[0]]
	if !ok {
		ts.Fatalf("there is no server %s", args[0])
	}
	delete(all, args[0])
	select {
	case err := <-s.exited:
		ts.Logf("server %s has ended: %v", args[0], err)
	case <-time.After(patience):
		ts.Fatalf("server %s has not ended within %v", args[0], patience)
	}
}

// endScriptServer also runs when the script has failed.
func endScriptServer(ts *testscript.TestScript, name string, s *scriptServer) {
	_ = s.cmd.Process.Signal(unix.SIGTERM) // it may have ended
	select {
	case err := <-s.exited:
		if err != nil {
			ts.Fatalf("server %s: %v\n%s", name, err, ts.ReadFile(name+".log"))
		}
	case <-time.After(stopTime):
		_ = s.cmd.Process.Kill()
		ts.Fatalf("server %s does not end within %v\n%s", name, stopTime, ts.ReadFile(name+".log"))
	}
}

func scriptSize(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 2, "size FILE BYTES")
	size, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	f, err := os.OpenFile(ts.MkAbs(args[0]), os.O_CREATE|os.O_WRONLY, 0o644)
	ts.Check(err)
	ts.Check(f.Truncate(size))
	ts.Check(f.Close())
}

func scriptFIFO(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1, "fifo FILE")
	ts.Check(unix.Mkfifo(ts.MkAbs(args[0]), 0o644))
}

func scriptLong(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1, "long NAME")
	ts.Setenv(args[0], strings.Repeat("x", 120))
}

func scriptClosed(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 1, "closed NAME")
	// The port is bound by a socket that does not listen, so it stays closed.
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	ts.Check(err)
	ts.Defer(func() { _ = unix.Close(fd) })
	ts.Check(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	at, err := unix.Getsockname(fd)
	ts.Check(err)
	ts.Setenv(args[0], strconv.Itoa(at.(*unix.SockaddrInet4).Port))
}

func scriptGreeter(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, neg, len(args) == 2, "greeter NAME TEXT")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ended := make(chan struct{})
	ts.Defer(func() { _ = l.Close(); <-ended })
	go func() {
		defer close(ended)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = fmt.Fprintln(conn, args[1])
			_ = conn.Close()
		}
	}()
	ts.Setenv(args[0], strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
}
