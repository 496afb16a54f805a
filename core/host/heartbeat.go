// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/flexnbd/flexnbd/sdk/wire"
)

// Heartbeat: a plugin is asked what it is every beat, and answers within
// hangTimeout however busy its disk is, since the question does not touch the
// disk. Tests shorten both.
var (
	beat        = 2 * time.Second
	hangTimeout = 15 * time.Second
)

// awaitLoss returns true once the process is of no more use: it has ended, was
// stopped by a signal, or hung, and then it has been killed. It returns false
// when ctx ends first.
func (p *Process) awaitLoss(ctx context.Context) bool {
	ticker := time.NewTicker(beat)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-p.Exited():
			return true
		case <-p.Stalled():
			p.log.Error("plugin was stopped by a signal and is given up", "kind", p.program.Kind, "plugin", p.program.Name, "plugin_pid", p.PID())
			return true
		case <-ticker.C:
		}
		if p.hangs(ctx) {
			p.log.Error("plugin does not answer and is given up", "kind", p.program.Kind, "plugin", p.program.Name, "plugin_pid", p.PID(), "after", hangTimeout)
			_ = p.stopNow() // whoever replaces it asks for the error again
			return true
		}
	}
}

// isDown says whether the process has ended or was stopped by a signal.
func (p *Process) isDown() bool {
	select {
	case <-p.Exited():
		return true
	case <-p.Stalled():
		return true
	default:
		return false
	}
}

// watched makes a call to a process that nobody else watches. When that is lost, the
// call fails with wire.ErrPluginGone, and its answer is not waited for.
func watched[T any](ctx context.Context, p *Process, call func(context.Context) (T, error)) (T, error) {
	calling, cancel := context.WithCancel(ctx)
	lost := false
	var watcher sync.WaitGroup
	watcher.Go(func() {
		if lost = p.awaitLoss(calling); lost {
			cancel()
		}
	})
	result, err := call(calling)
	cancel()
	watcher.Wait()
	if err != nil && lost && ctx.Err() == nil && !errors.Is(err, wire.ErrPluginGone) {
		err = p.named(fmt.Errorf("process %d was lost during the call: %w", p.PID(), wire.ErrPluginGone))
	}
	return result, err
}

// letGo calls closing, which asks the process to let go of something. One that is
// lost meanwhile is ended, so that nobody waits for its answer, and counts as
// having let go.
func (p *Process) letGo(closing func() error) error {
	ctx, cancel := context.WithCancel(context.Background())
	var watcher sync.WaitGroup
	watcher.Go(func() {
		if p.awaitLoss(ctx) {
			_ = p.endLost() // whoever stops it asks for the error again
		}
	})
	err := closing()
	cancel()
	watcher.Wait()
	if errors.Is(err, wire.ErrPluginGone) {
		return nil
	}
	return err
}

// hangs asks the process for a sign of life. A process that has ended or was
// stopped does not count as one that hangs.
func (p *Process) hangs(ctx context.Context) bool {
	if p.program.debugged {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, hangTimeout)
	defer cancel()
	late := make(chan bool, 1)
	go func() {
		_, err := p.wire.Describe(ctx)
		late <- errors.Is(err, context.DeadlineExceeded)
	}()
	select {
	case hangs := <-late:
		return hangs
	case <-p.Stalled():
		cancel()
		<-late
		return false
	}
}
