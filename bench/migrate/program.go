// SPDX-License-Identifier: GPL-3.0-or-later

package migrate

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/bench/process"
)

// program is a process that was started. Only the main goroutine may start one, as it
// is killed when the thread ends that did.
type program struct {
	name    string
	command *exec.Cmd
	log     string
	ended   chan struct{} // closed when it has, and err is set
	at      time.Time     // when it ended
	err     error
}

const (
	patience = 60 * time.Second // for whatever should take a moment
	retry    = 2 * time.Millisecond
)

// start runs a program whose output goes to a file in dir.
func start(dir, binary string, arguments ...string) (*program, error) {
	p := &program{name: filepath.Base(binary) + " " + arguments[0], ended: make(chan struct{})}
	log, err := os.CreateTemp(dir, "log-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }() // the process has its own
	p.log = log.Name()
	p.command = exec.Command(binary, arguments...)
	p.command.Stdout, p.command.Stderr = log, log
	// A group of its own, so that Ctrl-C reaches bench alone, which stops the others.
	p.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := p.command.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.err = p.command.Wait()
		p.at = time.Now()
		close(p.ended)
	}()
	return p, nil
}

func (p *program) pid() int { return p.command.Process.Pid }

// wait waits for its end, which is to be a success.
func (p *program) wait(ctx context.Context) error {
	select {
	case <-p.ended:
	case <-ctx.Done():
		return p.explain(context.Cause(ctx))
	}
	if p.err != nil {
		return p.explain(p.err)
	}
	return nil
}

// cpu is what it has taken until now, with its children.
func (p *program) cpu() (time.Duration, error) {
	select {
	case <-p.ended:
		return p.command.ProcessState.UserTime() + p.command.ProcessState.SystemTime(), nil
	default:
		return process.CPUTime(p.pid())
	}
}

// explain adds the program's name and the last it said.
func (p *program) explain(err error) error {
	said, _ := os.ReadFile(p.log)
	const most = 1000
	return fmt.Errorf("%s: %w; its last words are:\n%s", p.name, err, said[max(0, len(said)-most):])
}

// stop asks it to end, and kills it if it does not.
func (p *program) stop() error {
	late := time.AfterFunc(10*time.Second, func() { _ = unix.Kill(-p.pid(), unix.SIGKILL) })
	defer late.Stop()
	select {
	case <-p.ended:
		return nil
	default:
	}
	_ = p.command.Process.Signal(unix.SIGTERM)
	<-p.ended
	return nil
}

// until repeats an attempt until it succeeds.
func until(ctx context.Context, p *program, attempt func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := attempt()
		if err == nil {
			return nil
		}
		select {
		case <-p.ended:
			return p.explain(fmt.Errorf("it has ended: %w", err))
		case <-ctx.Done():
			return p.explain(fmt.Errorf("%w: %w", context.Cause(ctx), err))
		case <-time.After(retry): // between attempts; nothing tells when
		}
	}
}
