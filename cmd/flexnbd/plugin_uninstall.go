// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"fmt"
	"path/filepath"
	"text/tabwriter"

	"github.com/flexnbd/flexnbd/core/bundle"
	"github.com/flexnbd/flexnbd/core/host"
)

type pluginUninstallCommand struct {
	pluginView
	Args struct {
		Plugin string `positional-arg-name:"PLUGIN" description:"A plugin's name, or the path of its bundle" required:"yes"`
	} `positional-args:"yes"`
}

// Execute implements flags.Commander.
func (c *pluginUninstallCommand) Execute(args []string) error {
	if err := noArguments(args); err != nil {
		return err
	}
	finder, err := c.finder()
	if err != nil {
		return err
	}
	p, err := pick(finder, c.Args.Plugin)
	if err != nil {
		return err
	}
	if err := removable(p); err != nil {
		return err
	}
	facts := installed{Kind: p.Kind.String(), Name: p.Name, Path: p.Path}
	if b, err := bundle.Open(p.Path); err == nil {
		facts.Version = b.Manifest.Version
		_ = b.Close()
	}
	if err := bundle.Uninstall(filepath.Dir(p.Path), p.Kind, p.Name); err != nil {
		return err
	}
	return c.show(facts, func(w *tabwriter.Writer) {
		_, _ = fmt.Fprintf(w, "uninstalled %s %s from %s\n", p.Kind, p.Name, filepath.Dir(p.Path))
	})
}

func removable(p host.Found) error {
	switch {
	case p.Program.Waits():
		return usagef("%s %s waits under a debugger; end it there", p.Kind, p.Name)
	case p.Path == "builtin":
		return usagef("%s %s is inside the flexnbd binary, and can't be removed", p.Kind, p.Name)
	case bundleOf(p) == "":
		return usagef("%s is no bundle, and was not installed by `flexnbd plugin install`; remove the file by hand", p.Path)
	}
	return nil
}
