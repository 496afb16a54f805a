// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/core/client"
)

type writeCommand struct {
	targetOptions
	rangeOptions
	pluginOptions
	app *app
}

// Execute implements flags.Commander.
func (c *writeCommand) Execute(args []string) error {
	if err := noArguments(args); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGQUIT, unix.SIGTERM)
	defer stop()
	return c.app.withClient(ctx, c.targetOptions, c.Bind, c.pluginOptions, func(cl *client.Client) error {
		return cl.WriteFrom(ctx, os.Stdin, uint64(c.From), uint32(c.Size))
	})
}
