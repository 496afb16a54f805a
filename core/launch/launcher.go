// SPDX-License-Identifier: GPL-3.0-or-later

package launch

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Launcher is the server's side. All methods may be called from many goroutines.
type Launcher struct {
	process *exec.Cmd
	ended   chan struct{}  // closed by the reaper
	late    sync.WaitGroup // waits for processes that were given up: see Started.Abandon

	mu   sync.Mutex // orders are sent one by one
	line *net.UnixConn
}

// Options say what a launcher may be told besides the plans' numbers.
type Options struct {
	Plans []Plan
	// Keys are the variables that a [Request] may set, each one a name, or the
	// beginning of names where it ends in "_".
	Keys []string
	// SocketDirs is the folder in which each process gets a folder of its own for its
	// socket, which the variable SocketDirKey of its request names.
	SocketDirs   string
	SocketDirKey string
	// Socket is the path of a socket that is removed in the end if nobody has it open.
	Socket string
}

// New starts a launcher. Close it after the last process that it has started.
func New(o Options) (*Launcher, error) {
	data, err := json.Marshal(config{Plans: o.Plans, SocketDirs: o.SocketDirs, Socket: o.Socket, Keys: o.Keys, SocketDirKey: o.SocketDirKey})
	if err != nil {
		return nil, err
	}
	if len(data) > maxMessage {
		return nil, fmt.Errorf("the plugins' command lines are too long: %d bytes, with room for %d", len(data), maxMessage)
	}
	line, theirs, err := pair()
	if err != nil {
		return nil, err
	}
	defer func() { _ = theirs.Close() }()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{os.Args[0], launcherVerb}
	cmd.Env = []string{"GOMAXPROCS=1"}                                 // it has nothing to do in parallel
	for _, key := range []string{"GODEBUG", "GORACE", "GOTRACEBACK"} { // for whoever looks for a fault
		if value, set := os.LookupEnv(key); set {
			cmd.Env = append(cmd.Env, key+"="+value)
		}
	}
	cmd.Stderr = os.Stderr // for what it can tell nobody
	cmd.ExtraFiles = []*os.File{theirs}
	// Signals of a terminal are for the server, which ends the launcher in its turn.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		_ = line.Close()
		return nil, fmt.Errorf("cannot start the launcher of plugins: %w", err)
	}
	l := &Launcher{process: cmd, ended: make(chan struct{}), line: line}
	go func() {
		defer close(l.ended)
		_ = cmd.Wait() // how it ended does not matter: without it nothing can be started
	}()
	if _, err := line.Write(data); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot tell the launcher of plugins its plans: %w", err), l.Close())
	}
	return l, nil
}

// pair makes the line between server and launcher, which keeps messages apart.
func pair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make a socket for the launcher of plugins: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "launcher"), os.NewFile(uintptr(fds[1]), "launcher")
	defer func() { _ = ours.Close() }() // FileConn makes a copy
	line, err := unixConn(ours)
	if err != nil {
		_ = theirs.Close()
		return nil, nil, err
	}
	return line, theirs, nil
}

func unixConn(f *os.File) (*net.UnixConn, error) {
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	line, ok := conn.(*net.UnixConn)
	if !ok {
		_ = conn.Close()
		return nil, fmt.Errorf("%s is no Unix socket", f.Name())
	}
	return line, nil
}

// PID is the launcher's process number.
func (l *Launcher) PID() int { return l.process.Process.Pid }

// Ended is closed when the launcher has ended, by itself or by Close. Nothing can be
// started from then on; what runs goes on.
func (l *Launcher) Ended() <-chan struct{} { return l.ended }

// Close ends the launcher and waits for it. It may be called again.
func (l *Launcher) Close() error {
	_ = l.line.Close()
	if !within(endTime, l.ended) {
		// Somebody has stopped it, or a file server does not answer it.
		_ = l.process.Process.Signal(syscall.SIGCONT)
		if !within(lastMoment, l.ended) {
			if err := l.process.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
				return fmt.Errorf("cannot end the launcher of plugins: %w", err)
			}
			<-l.ended
		}
	}
	late := make(chan struct{})
	go func() { // ends with this process where the kernel hangs
		l.late.Wait()
		close(late)
	}()
	within(endTime, late)
	return nil
}

// within waits for done, but not for longer than that.
func within(long time.Duration, done <-chan struct{}) bool {
	timer := time.NewTimer(long)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}

// endTime is how long the launcher may take to end by itself.
const endTime = 5 * time.Second

// lastMoment is how long it may take once it was continued.
const lastMoment = time.Second

// ErrEnded is inside the error of a Start after the launcher's end.
var ErrEnded = errors.New("the launcher of plugins has ended, so none can be started: stop flexnbd and start it again")

// Request is an order for a process.
type Request struct {
	Plan int      // its number in Options.Plans
	Env  []string // see Options.Keys
	// Stdout and Stderr become the process's own, Channel its descriptor 3. They stay
	// the caller's, who may close them when Start has returned.
	Stdout, Stderr, Channel *os.File
}

// Start sends the order. What becomes of it [Started] tells.
func (l *Launcher) Start(r Request) (*Started, error) {
	data, err := json.Marshal(order{Plan: r.Plan, Env: r.Env})
	if err != nil {
		return nil, err
	}
	report, theirs, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("cannot make a pipe for the launcher's report: %w", err)
	}
	defer func() { _ = theirs.Close() }()
	files := []*os.File{r.Stdout, r.Stderr, r.Channel, theirs}
	if err := l.send(data, files); err != nil {
		_ = report.Close()
		return nil, ErrEnded // nobody reads the line
	}
	return newStarted(l, report), nil
}

func (l *Launcher) send(data []byte, files []*os.File) error {
	fds := make([]int, len(files))
	for i, f := range files {
		// Fd would make the file blocking, for whoever still reads or writes it too.
		raw, err := f.SyscallConn()
		if err != nil {
			return err
		}
		if err := raw.Control(func(fd uintptr) { fds[i] = int(fd) }); err != nil {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	_, _, err := l.line.WriteMsgUnix(data, unix.UnixRights(fds...), nil)
	return err
}

// Started is a process that has been ordered.
type Started struct {
	launcher *Launcher
	report   *os.File
	decoder  *json.Decoder
	failed   error // what the child has said before the launcher told of it
}

func newStarted(l *Launcher, report *os.File) *Started {
	return &Started{launcher: l, report: report, decoder: newDecoder(report)}
}

func newDecoder(report *os.File) *json.Decoder {
	return json.NewDecoder(io.LimitReader(report, maxReport))
}

const maxReport = 64 << 10 // bytes

// said is one message of a report.
type said struct {
	PID   int    `json:"pid,omitempty"`
	Child bool   `json:"child,omitempty"` // the child says it, and not the launcher
	Error string `json:"error,omitempty"`
	Errno int    `json:"errno,omitempty"`
}

// failure is an error that another process has had.
type failure struct {
	text  string
	errno syscall.Errno
}

func (f *failure) Error() string { return f.text }

// Unwrap lets errors.Is find the system call's error.
func (f *failure) Unwrap() error {
	if f.errno == 0 {
		return nil
	}
	return f.errno
}

func (s said) err() error { return &failure{text: s.Error, errno: syscall.Errno(s.Errno)} }

// PID waits until there is a process, and returns its number. It is a child of the
// caller's process, who has to wait for it.
func (s *Started) PID() (int, error) {
	for {
		var next said
		switch err := s.decoder.Decode(&next); {
		case errors.Is(err, io.EOF):
			return 0, ErrEnded
		case err != nil:
			return 0, fmt.Errorf("the launcher of plugins does not answer: %w", err)
		case next.Child:
			s.failed = next.err() // it was quicker than the launcher
		case next.Error != "":
			return 0, next.err()
		case next.PID <= 0:
			return 0, errors.New("the launcher of plugins made no sense")
		default:
			return next.PID, nil
		}
	}
}

// Running waits until the process has become the program, or returns why it can't.
// A process that has ended before is no error: it tells so itself.
func (s *Started) Running() error {
	if s.failed != nil {
		return s.failed
	}
	var next said
	switch err := s.decoder.Decode(&next); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return err
	}
	return next.err()
}

// Hurry lets PID and Running fail unless they return in time. The caller does not want
// the process any more, but has to wait for it if there is one.
func (s *Started) Hurry(within time.Duration) {
	_ = s.report.SetReadDeadline(time.Now().Add(within)) // a pipe takes deadlines
}

// Abandon leaves the process, if there ever is one, to be killed and waited for by the
// launcher's owner, who does so until Close. It is for a process that does not come in
// time, or does not end when it is killed. It takes the place of Close.
func (s *Started) Abandon(process *os.Process) {
	s.launcher.late.Go(func() {
		defer func() { _ = s.report.Close() }()
		_ = s.report.SetReadDeadline(time.Time{})
		s.decoder = newDecoder(s.report) // the other one keeps its error
		if process == nil {
			pid, err := s.PID() // or the launcher's end
			if err != nil {
				return
			}
			if process, err = os.FindProcess(pid); err != nil {
				return
			}
		}
		_ = process.Kill()
		_, _ = process.Wait()
	})
}

// Close gives up waiting. It may be called at any time, and must be called once, unless
// Abandon is.
func (s *Started) Close() error { return s.report.Close() }
