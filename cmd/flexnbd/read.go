// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/core/client"
)

type readCommand struct {
	targetOptions
	rangeOptions
	pluginOptions
	app *app
}

// Execute implements flags.Commander.
func (c *readCommand) Execute(args []string) error {
	if err := noArguments(args); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGQUIT, unix.SIGTERM)
	defer stop()
	return c.app.withClient(ctx, c.targetOptions, c.Bind, c.pluginOptions, func(cl *client.Client) error {
		return cl.ReadTo(ctx, c.app.stdout, uint64(c.From), uint32(c.Size))
	})
}

// noArguments refuses what a verb would overlook.
func noArguments(args []string) error {
	if len(args) > 0 {
		return usagef("unexpected argument %q", args[0])
	}
	return nil
}
