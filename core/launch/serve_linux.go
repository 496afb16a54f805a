// SPDX-License-Identifier: GPL-3.0-or-later

package launch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/core/sandbox"
	"github.com/flexnbd/flexnbd/sdk/socketfile"
)

// Open opens the program of a plan that is in a bundle, once it is sure that it is the
// right one.
type Open func(Plan) (*os.File, error)

// IsLauncher says whether the arguments are a launcher's.
func IsLauncher(args []string) bool { return len(args) == 2 && args[1] == launcherVerb }

// Serve is the launcher's main: it carries out orders until there is nobody to give
// any. Then it calls sweep for the folder that the processes' sockets were in.
func Serve(open Open, sweep func(socketDirs string)) error {
	// A service manager's signals are for the server.
	signal.Notify(make(chan os.Signal, 1), unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGHUP)
	setName("launcher")
	// A plugin of the same user, on a kernel that does not keep it from trying, can't look
	// into this process.
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	// What the server was started with is nothing for plugins.
	_ = unix.CloseRange(fdChannel, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC) // the server has done the same
	line := os.NewFile(fdChannel, "orders")
	conn, err := unixConn(line)
	_ = line.Close()
	if err != nil {
		return fmt.Errorf("this is for flexnbd itself to start: %w", err)
	}
	defer func() { _ = conn.Close() }()
	s := server{open: open}
	message := make([]byte, maxMessage)
	n, err := conn.Read(message)
	if err != nil || n == 0 {
		return nil // the server is gone
	}
	if err := json.Unmarshal(message[:n], &s.config); err != nil {
		return fmt.Errorf("read the plans: %w", err)
	}
	defer func() {
		s.under.Wait()
		s.sweep(sweep)
	}()
	rights := make([]byte, unix.CmsgSpace(maxFiles*4))
	for {
		n, oobn, _, _, err := conn.ReadMsgUnix(message, rights)
		if err != nil || n == 0 {
			return nil // the server is gone
		}
		files, err := received(rights[:oobn])
		if err != nil {
			return err
		}
		data := slices.Clone(message[:n])
		// A program on a dead file server holds up its own order only.
		s.under.Go(func() { s.carryOut(data, files) })
	}
}

// sweep removes what the server has left behind. The folder of the plugins' sockets
// belongs to their user, who may have put a link to others' files into it, so it is swept
// as that user.
func (s *server) sweep(dirs func(string)) {
	if s.config.Socket != "" {
		_ = socketfile.RemoveStale(context.Background(), s.config.Socket) // the next server does it too
	}
	for _, p := range s.config.Plans {
		if p.User != nil {
			if err := p.User.Become(); err != nil {
				return // the next server of that user sweeps it
			}
			break
		}
	}
	dirs(s.config.SocketDirs)
}

const maxFiles = 4

// received takes the descriptors out of a control message.
func received(rights []byte) ([]*os.File, error) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, fmt.Errorf("read an order: %w", err)
	}
	var files []*os.File
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return nil, fmt.Errorf("read an order: %w", err)
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "order"))
		}
	}
	return files, nil
}

// server is the launcher.
type server struct {
	config config
	open   Open
	under  sync.WaitGroup // orders under way
}

// carryOut starts what is ordered and reports.
func (s *server) carryOut(data []byte, files []*os.File) {
	defer func() {
		for _, f := range files {
			_ = f.Close()
		}
	}()
	if len(files) != maxFiles {
		return // there is nobody to tell
	}
	report := json.NewEncoder(files[maxFiles-1])
	pid, err := s.start(data, files)
	if err != nil {
		_ = report.Encode(refusal(err))
		return
	}
	if err := report.Encode(said{PID: pid}); err != nil {
		_ = unix.Kill(pid, unix.SIGKILL) // the server is not there to do it
	}
}

// refusal is what is said of an error.
func refusal(err error) said {
	s := said{Error: err.Error()}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		s.Errno = int(errno)
	}
	return s
}

// start makes the process, as a child of the server's.
func (s *server) start(data []byte, files []*os.File) (int, error) {
	var o order
	if err := json.Unmarshal(data, &o); err != nil {
		return 0, fmt.Errorf("the launcher does not understand: %w", err)
	}
	if o.Plan < 0 || o.Plan >= len(s.config.Plans) {
		return 0, fmt.Errorf("the launcher has no plan %d", o.Plan)
	}
	plan := s.config.Plans[o.Plan]
	if err := s.check(o.Env); err != nil {
		return 0, err
	}
	env := append(slices.Clone(plan.Env), o.Env...)
	spec := child{Name: plan.Name, Args: plan.Args, Exe: plan.Exe, Policy: s.policy(plan, o.Env), Other: plan.User != nil}
	own := env // of the child while it is this binary
	if spec.Exe != "" {
		// The program's variables would make this binary take itself for it.
		spec.Env, own = env, nil
	}
	given := []*os.File{nil, files[0], files[1], files[2], files[3], nil}
	if plan.Bundle != "" {
		exe, err := s.open(plan)
		if err != nil {
			return 0, err
		}
		defer func() { _ = exe.Close() }()
		spec.Opened = true
		given = append(given, exe)
	}
	return spawn(plan, spec, own, given)
}

// check refuses variables that an order has no business with, and a folder for the
// socket that is not the launcher's to give.
func (s *server) check(env []string) error {
	for _, pair := range env {
		key, value, _ := strings.Cut(pair, "=")
		known := slices.ContainsFunc(s.config.Keys, func(k string) bool {
			return key == k || strings.HasSuffix(k, "_") && strings.HasPrefix(key, k)
		})
		if !known || strings.IndexByte(pair, 0) >= 0 {
			return fmt.Errorf("the launcher sets no variable %q", key)
		}
		if name := filepath.Base(value); key == s.config.SocketDirKey && (name == "." || name == ".." || value != filepath.Join(s.config.SocketDirs, name)) {
			return fmt.Errorf("the launcher allows no sockets in %q", value)
		}
	}
	return nil
}

// policy is the plan's, with the folder of the process's socket.
func (s *server) policy(plan Plan, env []string) *sandbox.Policy {
	if plan.Policy == nil {
		return nil
	}
	p := *plan.Policy
	for _, pair := range env {
		if dir, ok := strings.CutPrefix(pair, s.config.SocketDirKey+"="); ok {
			p.Paths = append(slices.Clone(p.Paths), sandbox.Path{Path: dir, Access: sandbox.Private})
		}
	}
	return &p
}

// spawn starts this binary as the child that becomes the program.
func spawn(plan Plan, spec child, env []string, files []*os.File) (int, error) {
	data, err := json.Marshal(spec)
	if err != nil {
		return 0, err
	}
	told, teller, err := os.Pipe()
	if err != nil {
		return 0, fmt.Errorf("the launcher cannot make a pipe: %w", err)
	}
	defer func() { _ = teller.Close() }()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, errors.Join(fmt.Errorf("the launcher cannot open %s: %w", os.DevNull, err), told.Close())
	}
	files[0], files[fdSpec] = null, told
	fds := make([]uintptr, len(files))
	for i, f := range files {
		fds[i] = f.Fd()
	}
	pid, _, err := syscall.StartProcess("/proc/self/exe", []string{os.Args[0], childVerb, plan.Name}, &syscall.ProcAttr{
		Env: env, Files: fds, Sys: attributes(plan),
	})
	_ = null.Close()
	_ = told.Close() // or writing to a child that has ended would wait for ever
	switch {
	case err != nil && plan.User != nil:
		// Not as a system call's error, or it would be taken for the program's.
		return 0, fmt.Errorf("the launcher cannot start a process as user %d: %v; may that user execute %s?", plan.User.UID, err, os.Args[0])
	case err != nil:
		return 0, fmt.Errorf("the launcher cannot start a process: %v", err)
	}
	if _, err := teller.Write(data); err != nil && !errors.Is(err, unix.EPIPE) {
		return 0, errors.Join(fmt.Errorf("the launcher cannot tell a process what to do: %w", err), unix.Kill(pid, unix.SIGKILL))
	}
	return pid, nil
}

// attributes make a process a child of the server, in a group of its own, as the
// plan's user with what is left to it of root's rights.
func attributes(plan Plan) *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Cloneflags: unix.CLONE_PARENT, Setpgid: true}
	if plan.User == nil {
		return a
	}
	a.Credential = &syscall.Credential{Uid: plan.User.UID, Gid: plan.User.GID, Groups: plan.User.Groups}
	for _, c := range sandbox.Held(plan.Capabilities) {
		a.AmbientCaps = append(a.AmbientCaps, uintptr(c))
	}
	return a
}

// setName makes ps and pstree show a name in place of "exe".
func setName(name string) {
	_ = os.WriteFile("/proc/self/comm", []byte(name), 0) // cosmetic
}

// readAll reads what a child is told.
func readAll(f *os.File) ([]byte, error) { return io.ReadAll(io.LimitReader(f, 4*maxMessage)) }
