// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/core/launch"
	"github.com/flexnbd/flexnbd/core/logging"
)

// runner runs one plugin process for go-plugin, in place of go-plugin's own,
// which would give it the host's standard input and take it for alive as long as
// any grandchild holds its output.
//
// One goroutine, the reaper, waits for the process and closes exited; everybody
// else waits for that. Another one, the relay, logs what the process says on its
// standard error and then closes relayed.
type runner struct {
	program  Program
	launcher *launch.Launcher // nil: the process is started from here
	log      hclog.Logger
	env      []string
	exe      *os.File                          // what is executed, if it is in a bundle and started from here
	child    *os.File                          // the plugin's end of the descriptor channel, until Start
	outputs  struct{ stdout, stderr *os.File } // the plugin's ends, until Start
	process  *os.Process                       // once pid is not 0

	stdout, stderr *output
	pid            atomic.Int32  // 0 until Start
	exited         chan struct{} // closed by the reaper
	stalled        chan struct{} // closed once it was stopped by a signal
	stalling       sync.Once
	exit           error         // nil, or how it ended; valid once exited is closed
	relayed        chan struct{} // closed by the relay
	settled        chan struct{} // closed by settle

	settling sync.Once

	mu         sync.Mutex
	ordered    *launch.Started // while the launcher has been asked for the process
	asked      bool            // expectEnd was called before it ended
	killed     bool            // Kill was called before it ended
	reaped     bool            // the process's number may be somebody else's by now
	unexpected bool            // it ended without any of that; valid once exited is closed
}

// lastWords is how long the output is still read after the process has ended,
// in case a grandchild holds it open.
const lastWords = 500 * time.Millisecond

func newRunner(program Program, child *os.File, launcher *launch.Launcher, log hclog.Logger) (*runner, error) {
	r := &runner{
		program: program, launcher: launcher, log: log, child: child,
		exited: make(chan struct{}), stalled: make(chan struct{}), relayed: make(chan struct{}), settled: make(chan struct{}),
	}
	var err error
	if r.stdout, r.outputs.stdout, err = newOutput(); err != nil {
		return nil, err
	}
	if r.stderr, r.outputs.stderr, err = newOutput(); err != nil {
		_ = r.stdout.Close()
		_ = r.outputs.stdout.Close()
		return nil, err
	}
	return r, nil
}

// Start starts the process, its reaper and its relay.
func (r *runner) Start(context.Context) error {
	err := r.spawn()
	// The child has its own copies now; with ours open we would never see the
	// end of the files.
	_ = r.outputs.stdout.Close()
	_ = r.outputs.stderr.Close()
	_ = r.child.Close()
	if err != nil {
		return err
	}
	go r.reap()
	go r.relay()
	if r.givenUp() { // meanwhile
		return r.Kill(context.Background())
	}
	return nil
}

func (r *runner) givenUp() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.killed
}

// discard frees a runner that was never started, or whose start failed.
func (r *runner) discard() {
	_ = r.exe.Close() // nil is harmless, too
	for _, f := range []io.Closer{r.outputs.stdout, r.outputs.stderr, r.child, r.stdout, r.stderr} {
		_ = f.Close() // closing twice is harmless
	}
}

// started says whether there is, or was, a process.
func (r *runner) started() bool { return r.pid.Load() != 0 }

// reap waits for the process to end, kills what is left of its group, and only
// then frees its number, so that the signal can't reach a stranger.
func (r *runner) reap() {
	pid := int(r.pid.Load())
	r.awaitEnd(pid)
	r.mu.Lock()
	_ = unix.Kill(-pid, unix.SIGKILL)
	r.exit = howItEnded(r.process.Wait()) // at once: it has ended
	r.reaped = true
	r.unexpected = !r.asked && !r.killed
	r.mu.Unlock()
	_ = r.exe.Close()
	deadline := time.Now().Add(lastWords)
	r.stdout.expire(deadline)
	r.stderr.expire(deadline)
	close(r.exited)
}

// howItEnded is nil for exit status 0.
func howItEnded(state *os.ProcessState, err error) error {
	if err == nil && !state.Success() {
		err = &exec.ExitError{ProcessState: state}
	}
	return err
}

// awaitEnd returns when the process has ended. It notes on the way that it was
// stopped by a signal, from which it may never come back.
func (r *runner) awaitEnd(pid int) {
	for {
		var what unix.Siginfo
		err := unix.Waitid(unix.P_PID, pid, &what, unix.WEXITED|unix.WSTOPPED|unix.WNOWAIT, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil || what.Code != cldStopped:
			return
		default:
			r.stalling.Do(func() { close(r.stalled) })
			// Take the news of the stop, and only that, off the kernel.
			_ = unix.Waitid(unix.P_PID, pid, nil, unix.WSTOPPED|unix.WNOHANG, nil)
		}
	}
}

// cldStopped is CLD_STOPPED of waitid(2).
const cldStopped = 5

// relay logs what the process prints on its standard error until that ends.
// go-plugin does not see it, because it panics at some lines and loses others:
// see logging.RelayStderr.
func (r *runner) relay() {
	defer close(r.relayed)
	_ = logging.RelayStderr(r.output(), r.stderr) // its end is all that output.Read reports
}

// Wait waits for the reaper, and until go-plugin's client is made or given up:
// a client whose process ends in the middle of that leaves goroutines behind.
func (r *runner) Wait(context.Context) error {
	<-r.exited
	<-r.settled
	return r.exit
}

// settle lets Wait return.
func (r *runner) settle() { r.settling.Do(func() { close(r.settled) }) }

// Kill kills the process group at once, or as soon as it is started. SIGKILL
// also ends a stopped process.
func (r *runner) Kill(context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.reaped {
		return nil
	}
	r.killed = true
	if r.ordered != nil {
		r.ordered.Hurry(killWait)
	}
	pid := int(r.pid.Load())
	if pid == 0 {
		return nil
	}
	if err := unix.Kill(-pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("cannot kill process group %d: %w", pid, err)
	}
	return nil
}

// expectEnd notes that from now on the process ends because somebody wants it to.
func (r *runner) expectEnd() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = true
}

// wasKilled says whether the process, which has ended, ended by Kill and not by
// itself.
func (r *runner) wasKilled() bool {
	var exit *exec.ExitError
	if !r.givenUp() || !errors.As(r.exit, &exit) {
		return false
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// The rest of go-plugin's runner.Runner.

func (r *runner) Stdout() io.ReadCloser           { return r.stdout }
func (r *runner) Stderr() io.ReadCloser           { return io.NopCloser(eof{}) } // see relay
func (r *runner) Name() string                    { return r.program.Name }
func (r *runner) Diagnose(context.Context) string { return "" } // see diagnose.go

func (r *runner) ID() string {
	if !r.started() {
		return ""
	}
	return strconv.Itoa(int(r.pid.Load()))
}

func (r *runner) PluginToHost(network, addr string) (string, string, error) {
	return network, addr, nil
}

func (r *runner) HostToPlugin(network, addr string) (string, string, error) {
	return network, addr, nil
}

// eof is a reader at its end.
type eof struct{}

func (eof) Read([]byte) (int, error) { return 0, io.EOF }

// output is the reading end of a plugin's standard output or error. It remembers
// the beginning and the end of what went by, for the message when a start fails.
type output struct {
	pipe *os.File

	mu   sync.Mutex
	head []byte
	tail []byte
}

// remembered is how much of each end is kept, in bytes.
const remembered = 1024

func newOutput() (*output, *os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make a pipe for a plugin's output: %w", err)
	}
	return &output{pipe: r}, w, nil
}

// Read ends with io.EOF also when the time for last words is over.
func (o *output) Read(p []byte) (int, error) {
	n, err := o.pipe.Read(p)
	o.mu.Lock()
	if room := remembered - len(o.head); room > 0 {
		o.head = append(o.head, p[:min(room, n)]...)
	}
	o.tail = append(o.tail, p[:n]...)
	if extra := len(o.tail) - remembered; extra > 0 {
		o.tail = append(o.tail[:0], o.tail[extra:]...)
	}
	o.mu.Unlock()
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, os.ErrClosed) {
		err = io.EOF
	}
	return n, err
}

// Close closes the reading end.
func (o *output) Close() error { return o.pipe.Close() }

func (o *output) expire(t time.Time) { _ = o.pipe.SetReadDeadline(t) }

// firstLine returns the first line that was read, without its end.
func (o *output) firstLine() (line string, any bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	first, _, _ := bytes.Cut(o.head, []byte{'\n'})
	return string(first), len(o.head) > 0
}

// lastLine returns the last line that was read.
func (o *output) lastLine() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	lines := bytes.Split(bytes.TrimRight(o.tail, "\n"), []byte{'\n'})
	return string(lines[len(lines)-1])
}
