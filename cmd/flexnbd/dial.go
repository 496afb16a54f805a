// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"errors"
	"time"

	"github.com/flexnbd/flexnbd/core/client"
	"github.com/flexnbd/flexnbd/core/host"
	"github.com/flexnbd/flexnbd/sdk/transport"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// dialTimeout bounds the time to a connected socket.
const dialTimeout = 30 * time.Second

// withClient connects to a server, through the transport plugin, and calls do.
// The plugin is needed for the dialling alone and has ended by then.
func (a *app) withClient(ctx context.Context, target targetOptions, bind string, plugins pluginOptions, do func(*client.Client) error) error {
	conn, err := a.dial(ctx, target, transport.Address{Addr: bind}, plugins)
	if err != nil {
		return err
	}
	c, err := client.Connect(ctx, conn.Socket, client.Options{})
	if err != nil {
		return err
	}
	if err := do(c); err != nil {
		return errors.Join(err, c.Close())
	}
	return c.Disconnect()
}

func (a *app) dial(ctx context.Context, target targetOptions, bind transport.Address, plugins pluginOptions) (_ transport.Conn, err error) {
	program, spec, err := plugins.find(wire.KindTransport, plugins.Transport)
	if err != nil {
		return transport.Conn{}, err
	}
	to, err := address(target.Addr, target.Port, spec)
	if err != nil {
		return transport.Conn{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	h, err := host.New(a.logger("main"))
	if err != nil {
		return transport.Conn{}, err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	process, err := h.Start(ctx, program)
	if err != nil {
		return transport.Conn{}, err
	}
	defer func() { err = errors.Join(err, process.Stop(ctx)) }()
	return process.Transport().Dial(ctx, to, bind)
}
