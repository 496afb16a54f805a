// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/flexnbd/flexnbd/core/launch"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// spawn makes the process. pid is set once there is one to be killed; after an error
// there is none.
func (r *runner) spawn() error {
	if r.launcher != nil {
		return r.order()
	}
	exe := r.program.exe
	if r.program.Bundle != "" {
		var err error
		if r.exe, err = r.program.executable(); err != nil {
			return err
		}
		// Through this process and not the child, in which Go moves descriptors about before
		// it executes, and which has none of this one's any more when a script's interpreter
		// opens the script.
		exe = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), r.exe.Fd())
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer func() { _ = null.Close() }()
	// Its directory is ours: a relative --file means the same to the plugin as to whoever
	// started the host.
	process, err := os.StartProcess(exe, r.program.args, &os.ProcAttr{
		Env:   append(append(environment(), descriptorChannel), r.env...),
		Files: []*os.File{null, r.outputs.stdout, r.outputs.stderr, r.child},
		Sys:   &syscall.SysProcAttr{Setpgid: true},
	})
	if err != nil {
		return err
	}
	r.exists(process)
	return nil
}

// descriptorChannel tells a plugin where its end of the channel is.
const descriptorChannel = wire.EnvDescriptorChannel + "=3"

// order has the launcher make the process.
func (r *runner) order() error {
	started, err := r.launcher.Start(launch.Request{
		Plan: r.program.plan, Env: r.env,
		Stdout: r.outputs.stdout, Stderr: r.outputs.stderr, Channel: r.child,
	})
	if err != nil {
		return final(err)
	}
	r.awaits(started)
	defer r.awaits(nil)
	pid, err := started.PID()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		started.Abandon(nil) // it may come yet
		return err
	}
	if err != nil {
		_ = started.Close()
		return final(err)
	}
	process, err := os.FindProcess(pid)
	if err != nil {
		_ = started.Close()
		return err
	}
	r.exists(process)
	if r.givenUp() { // before there was anything to kill
		_ = process.Kill()
	}
	err = started.Running()
	if err == nil {
		return started.Close()
	}
	r.mu.Lock()
	r.reaped = true // as far as Kill is concerned
	r.mu.Unlock()
	r.pid.Store(0)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		started.Abandon(process) // it hangs in the kernel
		return err
	}
	_ = process.Kill()
	_, _ = process.Wait() // why it could not become the plugin it has said
	return errors.Join(err, started.Close())
}

// final marks an error of a launcher that has ended: there is no other.
func final(err error) error {
	if errors.Is(err, launch.ErrEnded) {
		return fmt.Errorf("%w: %w", err, errUseless)
	}
	return err
}

// awaits lets Kill hurry the launcher, or the child that is on its way.
func (r *runner) awaits(started *launch.Started) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ordered = started
	if r.killed && started != nil {
		started.Hurry(killWait)
	}
}

func (r *runner) exists(process *os.Process) {
	r.process = process
	r.pid.Store(int32(process.Pid))
}
