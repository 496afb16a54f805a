// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"strings"
)

type helpCommand struct {
	Args struct {
		Command []string `positional-arg-name:"command" description:"The command to show help for"`
	} `positional-args:"yes"`
	app *app
}

// Execute implements flags.Commander. It shows what --help shows.
func (c *helpCommand) Execute(args []string) error {
	names := append(c.Args.Command, args...)
	parser := newParser(c.app)
	switch {
	case len(names) > 1:
		return usagef("help takes one command, not %s", strings.Join(names, " "))
	case len(names) == 1:
		if parser.Find(names[0]) == nil {
			return usagef("there is no command %q", names[0])
		}
		_, err := parser.ParseArgs([]string{names[0], "--help"})
		return err
	}
	_, err := parser.ParseArgs([]string{"--help"})
	return err
}
