// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"fmt"

	"github.com/flexnbd/flexnbd/core/control"
)

type socketOptions struct {
	Sock string `short:"s" long:"sock" value-name:"SOCK" required:"yes" description:"The control socket of the server"`
}

type statusCommand struct {
	socketOptions
	app *app
}

// Execute implements flags.Commander.
func (c *statusCommand) Execute(args []string) error {
	if err := noArguments(args); err != nil {
		return err
	}
	return c.app.ask(c.Sock, "status")
}

// ask sends a request to a server's control socket, prints the answer, and exits
// with what the server says.
func (a *app) ask(sock, verb string, args ...string) error {
	answer, err := control.Call(context.Background(), sock, verb, args...)
	if err != nil {
		return err
	}
	if answer.Code != 0 {
		_, _ = fmt.Fprintln(a.stderr, answer.Text) // the exit status says it too
		return exitError(answer.Code)
	}
	_, err = fmt.Fprintln(a.stdout, answer.Text)
	return err
}
