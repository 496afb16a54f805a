// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"errors"
	"net"
	"sync"

	"github.com/flexnbd/flexnbd/core/host"
	"github.com/flexnbd/flexnbd/sdk/transport"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// dialler connects to other servers through a transport plugin, which it starts when
// it is first needed and keeps: to start one takes longer than to dial. The zero
// value needs host and program.
type dialler struct {
	host    *host.Host
	program host.Program

	mu      sync.Mutex // held while it starts, not while it dials
	process *host.Process
}

func (d *dialler) dial(ctx context.Context, to, from transport.Address) (net.Conn, error) {
	process, err := d.running(ctx)
	if err != nil {
		return nil, err
	}
	conn, err := process.Transport().Dial(ctx, to, from)
	if errors.Is(err, wire.ErrPluginGone) {
		d.forget(process)
	}
	return conn.Socket, err
}

// running returns the process, which it starts if there is none.
func (d *dialler) running(ctx context.Context) (*host.Process, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.process != nil {
		return d.process, nil
	}
	process, err := d.host.Start(ctx, d.program)
	if err == nil {
		d.process = process
	}
	return process, err
}

// forget gives up a process that is lost.
func (d *dialler) forget(lost *host.Process) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.process == lost {
		d.process = nil
		_ = lost.Stop(context.Background()) // it is gone
	}
}

func (d *dialler) close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.process == nil {
		return nil
	}
	err := d.process.Stop(context.Background())
	d.process = nil
	return err
}
