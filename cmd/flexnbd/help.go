// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/flexnbd/flexnbd/core/host"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

type helpCommand struct {
	Backend string `long:"backend" value-name:"NAME|/PATH" description:"Show the options of a backend"`
	Args    struct {
		Command []string `positional-arg-name:"command" description:"The command to show help for, or two, such as plugin list"`
	} `positional-args:"yes"`
	app *app
}

// Execute implements flags.Commander. It shows what --help shows.
func (c *helpCommand) Execute(args []string) error {
	names := append(c.Args.Command, args...)
	parser := newParser(c.app)
	switch {
	case c.Backend != "":
		return c.backend()
	case len(names) > 0:
		for i, at := 0, parser.Command; i < len(names); i++ {
			if at = at.Find(names[i]); at == nil {
				return usagef("there is no command %q", strings.Join(names[:i+1], " "))
			}
		}
		_, err := parser.ParseArgs(append(names, "--help"))
		return err
	}
	_, err := parser.ParseArgs([]string{"--help"})
	return err
}

// backend shows what may stand behind a backend's name.
func (c *helpCommand) backend() error {
	view := pluginView{app: c.app}
	finder, err := view.finder()
	if err != nil {
		return err
	}
	spec, err := host.ParseSpec(wire.KindBackend, c.Backend)
	if err != nil {
		return usageError{err}
	}
	program, err := finder.Find(spec)
	if err != nil {
		return usageError{err}
	}
	facts, err := view.facts(host.Found{Kind: program.Kind, Name: program.Name, Path: program.Path, Program: program})
	if err != nil {
		return err
	}
	return view.show(facts, func(w *tabwriter.Writer) {
		_, _ = fmt.Fprintf(w, "--backend %s[,OPTION=VALUE...]\n\n", facts.Name)
		_ = w.Flush()
		if len(facts.Options) == 0 {
			_, _ = fmt.Fprintln(w, facts.withoutOptions())
			return
		}
		writeOptions(w, facts.Options)
	})
}
