// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"fmt"
	"os"
	"text/tabwriter"

	"github.com/flexnbd/flexnbd/core/host"
)

type pluginPathCommand struct{ pluginView }

// searched is what `plugin path --json` prints.
type searched struct {
	// Install is where `plugin install` puts plugins.
	Install string   `json:"install,omitempty"`
	Search  []folder `json:"search"`
}

type folder struct {
	Path  string `json:"path"`
	There bool   `json:"there"`
}

// Execute implements flags.Commander.
func (c *pluginPathCommand) Execute(args []string) error {
	if err := noArguments(args); err != nil {
		return err
	}
	finder, err := c.finder()
	if err != nil {
		return err
	}
	out := searched{Search: []folder{}}
	if len(c.PluginDir) > 0 {
		out.Install = finder.Dirs[0]
	} else {
		out.Install, _ = host.InstallDir(os.Getenv, os.Geteuid()) // nowhere, for a user without a home
	}
	for _, dir := range finder.Dirs {
		st, err := os.Stat(dir)
		out.Search = append(out.Search, folder{Path: dir, There: err == nil && st.IsDir()})
	}
	return c.show(out, func(w *tabwriter.Writer) {
		for _, dir := range out.Search {
			note := ""
			if !dir.There {
				note = "not there"
			}
			if dir.Path == out.Install {
				note += " (plugins are installed here)"
			}
			_, _ = fmt.Fprintf(w, "%s\t%s\n", dir.Path, note)
		}
		_, _ = fmt.Fprintln(w, "inside this binary\t")
	})
}
