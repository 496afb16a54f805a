// SPDX-License-Identifier: GPL-3.0-or-later

package check

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/core/host"
)

const processPart = "process"

// work is something that a process does: a disk that is open in it, a listener. call
// makes it do some of it, and ends with ctx; done ends it; remove clears away what
// was made for it, once the process has stopped.
type work struct {
	call         func(ctx context.Context) error
	done, remove func() error
}

// employ gives a process work.
type employ func(ctx context.Context, p *host.Process) (work, error)

// starts checks whether there is a process to begin with.
func (r *run) starts(ctx context.Context) bool {
	var p *host.Process
	if !r.try(ctx, promise{
		processPart, "StartsAndSaysWhatItIs",
		"docs/plugin-protocol.md: the plugin prints its handshake line within 10 seconds, nothing before it, and then answers Describe",
		func(ctx context.Context) (_ string, err error) {
			if p, err = r.host.Start(ctx, r.Program); err != nil {
				return "", err
			}
			return "", p.Stop(ctx)
		},
	}, true) {
		return false
	}
	r.try(ctx, promise{
		processPart, "NameIsTheFiles",
		"PLUGINS.md: flexnbd looks for the file flexnbd-KIND-NAME, and shows the name that the plugin gives itself",
		func(context.Context) (string, error) {
			if name := p.Description().Name; name != r.Program.Name {
				return "", fmt.Errorf("it calls itself %q, and its file, %s, is not called %s%s", name, p.Path(), prefix(r.Program.Kind), name)
			}
			return "", nil
		},
	}, false)
	return true
}

// lives checks how a process lives, and ends, while it works.
func (r *run) lives(ctx context.Context, employ employ) {
	r.try(ctx, promise{
		processPart, "SignalsOfATerminalDoNotEndIt",
		"docs/plugin-protocol.md: it must not end on SIGINT, SIGTERM or SIGHUP, which a terminal and a service manager send to everybody",
		func(ctx context.Context) (string, error) {
			return "", r.with(ctx, employ, func(p *host.Process, w work) error { return heedsNoSignal(ctx, p, w) })
		},
	}, false)
	r.try(ctx, promise{
		processPart, "StandardOutputHasTheHandshakeAlone",
		"docs/plugin-protocol.md: the handshake is one line on standard output; standard error is the log",
		func(ctx context.Context) (string, error) {
			return "", r.with(ctx, employ, func(p *host.Process, w work) error {
				if err := w.call(ctx); err != nil {
					return err
				}
				pause(ctx, moment)
				if text := p.Printed(); text != "" {
					return fmt.Errorf("after its handshake it printed %.200q on standard output; log to standard error instead", text)
				}
				return nil
			})
		},
	}, false)
	r.try(ctx, promise{
		processPart, "EndsWithItsHost",
		"docs/plugin-protocol.md: a plugin ends, within two seconds, when the descriptor channel reaches end-of-file: its host is gone, or wants it to end",
		func(ctx context.Context) (string, error) { return "", r.endsWithItsHost(ctx, employ) },
	}, false)
}

const (
	// moment is what a process gets to do what it should not.
	moment = 100 * time.Millisecond
	// stopWait is what host.Process.Stop gives a plugin to end by itself.
	stopWait = 2 * time.Second
)

// with starts a process that works, has it looked at, and stops it. When ctx ends it is
// stopped, so that nobody waits for its answers.
func (r *run) with(ctx context.Context, employ employ, look func(*host.Process, work) error) error {
	p, err := r.host.Start(ctx, r.Program)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = p.Stop(ctx) })()
	w, err := employ(ctx, p)
	if err != nil {
		return errors.Join(err, p.Stop(ctx))
	}
	err = look(p, w)
	if done := w.done(); err == nil { // or it fails for the same reason
		err = done
	}
	return errors.Join(err, p.Stop(context.WithoutCancel(ctx)), w.remove())
}

func heedsNoSignal(ctx context.Context, p *host.Process, w work) error {
	for _, signal := range []unix.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP} {
		if err := unix.Kill(p.PID(), signal); err != nil {
			return fmt.Errorf("%s can't be sent to process %d: %w", unix.SignalName(signal), p.PID(), err)
		}
		pause(ctx, moment)
		select {
		case <-p.Exited():
			return fmt.Errorf("it ends on %s; catch that signal and go on", unix.SignalName(signal))
		default:
		}
		if err := w.call(ctx); err != nil {
			return fmt.Errorf("after %s: %w", unix.SignalName(signal), err)
		}
	}
	return nil
}

// endsWithItsHost leaves the work as it is, as a host does that was killed.
func (r *run) endsWithItsHost(ctx context.Context, employ employ) error {
	p, err := r.host.Start(ctx, r.Program)
	if err != nil {
		return err
	}
	w, err := employ(ctx, p)
	if err != nil {
		return errors.Join(err, p.Stop(ctx))
	}
	began := time.Now()
	err = p.Stop(context.WithoutCancel(ctx))
	took := time.Since(began)
	_ = w.done() // there is nobody to ask; but what is held here, a lease say, is let go
	if err = errors.Join(err, w.remove()); err == nil && took >= stopWait {
		err = fmt.Errorf("it was still there %v after the host had closed the descriptor channel, and had to be killed; end the process when a read of descriptor 3 ($FLEXNBD_DESCRIPTOR_CHANNEL) gives end-of-file", stopWait)
	}
	return err
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
