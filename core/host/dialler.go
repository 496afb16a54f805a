// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/hashicorp/go-hclog"

	"github.com/flexnbd/flexnbd/sdk/transport"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// Dialler connects to other servers through a transport, whose process it starts
// at the first Dial and keeps, since to start one takes longer than to dial. One
// that is lost is replaced at the next Dial. Connections live on without it.
//
// There is no bound on restarts: a Dial starts one process at most, and whoever
// repeats Dials paces them.
type Dialler struct {
	host    *Host
	program Program
	log     hclog.Logger

	turn    sync.Mutex // held while a process is started or ended, not while it dials
	process *Process   // nil: none runs
	closed  bool
}

// Dialler makes a dialler that has started nothing yet. Close it before the host.
func (h *Host) Dialler(program Program) *Dialler {
	return &Dialler{host: h, program: program, log: h.log}
}

// Dial connects to to, from the local address from unless that is the zero one. Of a
// process that is lost meanwhile, see the package comment, it does not wait for an
// answer: the error is wire.ErrPluginGone. When ctx's deadline passes, the process
// may be what hangs, and is given up too, with every other Dial that it is at.
// After Close the error is [net.ErrClosed].
func (d *Dialler) Dial(ctx context.Context, to, from transport.Address) (net.Conn, error) {
	process, err := d.running(ctx)
	if err != nil {
		return nil, err
	}
	conn, err := watched(ctx, process, func(ctx context.Context) (transport.Conn, error) {
		return process.Transport().Dial(ctx, to, from)
	})
	switch {
	case err == nil:
		return conn.Socket, nil
	case errors.Is(err, wire.ErrPluginGone):
		return nil, errors.Join(err, d.giveUp(process, process.endLost))
	case errors.Is(err, context.DeadlineExceeded):
		return nil, errors.Join(err, d.giveUp(process, process.stopSoon))
	}
	return nil, err
}

// running returns the process, which it starts if there is none or if that was lost
// since the last Dial.
func (d *Dialler) running(ctx context.Context) (*Process, error) {
	d.turn.Lock()
	defer d.turn.Unlock()
	if d.closed {
		return nil, fmt.Errorf("dial: %w", net.ErrClosed)
	}
	if d.process != nil && d.process.isDown() {
		d.log.Warn("transport that dials was lost and is replaced", "plugin", d.program.Name, "plugin_pid", d.process.PID())
		if err := d.process.endLost(); err != nil {
			return nil, err
		}
		d.process = nil
	}
	if d.process != nil {
		return d.process, nil
	}
	process, err := d.host.Start(ctx, d.program)
	if err == nil {
		d.process = process
	}
	return process, err
}

// giveUp ends a process unless another Dial has.
func (d *Dialler) giveUp(process *Process, end func() error) error {
	d.turn.Lock()
	defer d.turn.Unlock()
	if d.process != process {
		return nil
	}
	d.process = nil
	return end()
}

// Close ends the process. A Dial that is under way fails. It may be called again.
func (d *Dialler) Close() error {
	d.turn.Lock()
	defer d.turn.Unlock()
	d.closed = true
	if d.process == nil {
		return nil
	}
	process := d.process
	d.process = nil
	return process.Stop(context.Background())
}
