// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/go-hclog"
)

// Bounds on restarts. A plugin that crashes maxRestarts times within
// restartWindow does not serve anybody, and neither does one that can't be
// started for as long. Tests change them.
var (
	maxRestarts   = 20
	restartWindow = time.Minute
	// restartTimeout bounds one start.
	restartTimeout = 30 * time.Second
	// firstPause grows twofold with each start that fails, up to lastPause.
	firstPause = 50 * time.Millisecond
	lastPause  = 2 * time.Second
)

// restartBound keeps the restarts of one plugin within bounds. One goroutine at a
// time uses it.
type restartBound struct{ times []time.Time }

// errUseless is inside the error of a start that no further attempt can mend.
var errUseless = errors.New("no other process will do better")

// retry calls start until it succeeds, with growing pauses. It gives up, and says
// why, when the plugin was started too often, or takes too long, or start returns
// errUseless. When ctx ends it returns ctx's error.
func (b *restartBound) retry(ctx context.Context, log hclog.Logger, plugin string, start func(context.Context) error) error {
	began := time.Now()
	var last error
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		switch took := time.Since(began); {
		case took >= restartWindow:
			return fmt.Errorf("%s could not be started again for %v: %w", plugin, took.Round(time.Second), last)
		case !b.allow(time.Now()):
			return tooOften(plugin, last)
		}
		if last = attempt(ctx, start); last == nil {
			return nil
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(last, errUseless):
			return last
		}
		log.Error("plugin can't be started again yet", "plugin", plugin, "error", last, "again_in", pause)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

func tooOften(plugin string, last error) error {
	if last == nil {
		return fmt.Errorf("%s was started %d times within %v", plugin, maxRestarts, restartWindow)
	}
	return fmt.Errorf("%s was started %d times within %v, the last time in vain: %w", plugin, maxRestarts, restartWindow, last)
}

func attempt(ctx context.Context, start func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, restartTimeout)
	defer cancel()
	return start(ctx)
}

// allow counts a start and says whether it is within the bound.
func (b *restartBound) allow(now time.Time) bool {
	for len(b.times) > 0 && now.Sub(b.times[0]) > restartWindow {
		b.times = b.times[1:]
	}
	if len(b.times) >= maxRestarts {
		return false
	}
	b.times = append(b.times, now)
	return true
}
