// SPDX-License-Identifier: GPL-3.0-or-later

package compare

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/bench/load"
	"github.com/flexnbd/flexnbd/bench/process"
)

// instance is a running server.
type instance struct {
	server
	place
	pid     int           // of the process that all others are below
	ended   chan struct{} // is closed when it has
	command []string
}

const (
	startTime = 20 * time.Second
	stopTime  = 10 * time.Second
	retry     = 5 * time.Millisecond
)

// serve runs the server on the image for as long as use takes. Only the main thread
// may call it: see PDEATHSIG below.
func serve(ctx context.Context, s server, img *image, use func(*instance) error) (err error) {
	in, err := start(ctx, s, img)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.stop()) }()
	if err := use(in); err != nil {
		return in.explain(err)
	}
	return nil
}

// start starts the server, with its own files in a folder beside the image, and
// returns when it answers a read.
func start(ctx context.Context, s server, img *image) (*instance, error) {
	// A new folder each time: a daemon may leave its process id behind.
	dir, err := os.MkdirTemp(img.folder, s.name+"-")
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	in := &instance{server: s, place: place{img.path, port, dir}}
	arguments, err := s.arguments(in.place)
	if err != nil {
		return nil, err
	}
	log, err := os.Create(in.log())
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }() // the server has its own
	command := exec.Command(s.binary, arguments...)
	command.Stdout, command.Stderr = log, log
	// A group of its own, so that Ctrl-C reaches bench alone, which then stops the
	// servers; and if bench is killed, they are too, but for daemons. That signal
	// comes when the *thread* ends which started the process, so it has to be the
	// main one.
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	in.command = in.generalize(command.Args)
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", s.name, err)
	}
	in.pid = command.Process.Pid
	if s.daemon {
		if in.pid, err = daemonised(command, in.pidFile()); err != nil {
			return nil, in.explain(err)
		}
	}
	in.ended = make(chan struct{})
	go func() {
		defer close(in.ended)
		reap(in.pid)
	}()
	if err := in.untilReady(ctx); err != nil {
		return nil, errors.Join(in.explain(err), in.stop())
	}
	return in, nil
}

func (in *instance) log() string { return filepath.Join(in.dir, "log") }

// adopt makes processes whose parents have ended children of this one, so that
// daemons, and what servers leave behind, can be waited for.
func adopt() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become a subreaper: %w", err)
	}
	return nil
}

// daemonised waits until the process has left another one in the background, and
// returns that one's id.
func daemonised(command *exec.Cmd, pidFile string) (int, error) {
	if err := command.Wait(); err != nil {
		return 0, err
	}
	for deadline := time.Now().Add(startTime); ; time.Sleep(retry) {
		b, err := os.ReadFile(pidFile)
		if pid, _ := strconv.Atoi(strings.TrimSpace(string(b))); pid > 0 {
			return pid, nil
		}
		if time.Now().After(deadline) {
			return 0, errors.Join(errors.New("it has not written its process id"), err)
		}
	}
}

// reap waits for a process to end that is a child of this one, if it still is there.
func reap(pid int) {
	for {
		if _, err := unix.Wait4(pid, nil, 0, nil); !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// freePort finds a port that was free a moment ago.
func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port, l.Close()
}

func (in *instance) untilReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	one := load.Workload{Connections: 1, Depth: 1, Block: load.PageSize, Reads: 100}
	for {
		c, err := in.connect(ctx, one, false)
		if err == nil {
			_, err = c.Run(ctx, 0, 0, true)
			return errors.Join(err, c.Close())
		}
		select {
		case <-in.ended:
			return errors.New("it ended at once")
		case <-ctx.Done():
			return fmt.Errorf("it is not ready: %w", errors.Join(context.Cause(ctx), err))
		case <-time.After(retry): // between attempts; nothing tells when
		}
	}
}

func (in *instance) connect(ctx context.Context, w load.Workload, structured bool) (*load.Client, error) {
	return load.Open(ctx, net.JoinHostPort("127.0.0.1", in.port), w, load.Options{Export: in.export, Structured: structured})
}

// explain adds the server's name and the last it said.
func (in *instance) explain(err error) error {
	said, _ := os.ReadFile(in.log())
	const most = 1000
	said = said[max(0, len(said)-most):]
	if len(said) > 0 {
		return fmt.Errorf("%s: %w; its last words are:\n%s", in.name, err, said)
	}
	return fmt.Errorf("%s: %w", in.name, err)
}

// stop asks the server to end, and ends it if it does not. When it returns, no process
// of the server is left that may have the image open.
func (in *instance) stop() error {
	tree := process.Tree(in.pid)
	late := time.AfterFunc(stopTime, func() {
		for _, pid := range tree {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	})
	_ = unix.Kill(in.pid, unix.SIGTERM)
	<-in.ended
	// Those below it may take longer. Parents come first in the tree: once one has
	// ended its children are this process's.
	for _, pid := range tree[1:] {
		reap(pid)
	}
	if !late.Stop() {
		return fmt.Errorf("%s did not end within %v of SIGTERM and was killed", in.name, stopTime)
	}
	return nil
}
