// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/core/launch"
	"github.com/flexnbd/flexnbd/core/privilege"
)

// Host starts plugins. It holds the private folder with their sockets.
type Host struct {
	dir      *runDir
	log      hclog.Logger
	launcher *launch.Launcher // nil: plugins are started from here
	planned  []Program        // what the launcher can start
}

// New makes a host. Close it when every process has been stopped.
//
// It marks every descriptor that this process has inherited close-on-exec, so
// that no plugin finds one that a shell or a service manager left open.
func New(log hclog.Logger) (*Host, error) { return makeHost(log, nil) }

func makeHost(log hclog.Logger, user *privilege.User) (*Host, error) {
	if err := unix.CloseRange(3, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		log.Debug("cannot mark inherited descriptors close-on-exec", "error", err)
	}
	dir, err := newRunDir(os.Getenv, user)
	if err != nil {
		return nil, err
	}
	return &Host{dir: dir, log: log}, nil
}

// Start starts a plugin and returns once it has said what it is. The error says
// which plugin failed, why, and what to do. ctx bounds the start alone.
func (h *Host) Start(ctx context.Context, program Program) (*Process, error) {
	program, err := h.plan(program)
	if err != nil {
		return nil, err
	}
	return start(ctx, program, h.launcher, h.dir.path, h.log)
}

// Close removes the private folder. Every process must have been stopped.
func (h *Host) Close() error {
	if h.launcher != nil {
		// It removes the folder: this process may not be allowed to, any more.
		return errors.Join(h.launcher.Close(), h.dir.lock.Close())
	}
	if err := h.dir.remove(); err != nil {
		return fmt.Errorf("cannot remove %s: %w", h.dir.path, err)
	}
	return nil
}
