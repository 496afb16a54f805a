// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"fmt"
	"sync"
	"text/tabwriter"

	"github.com/flexnbd/flexnbd/core/host"
)

type pluginListCommand struct{ pluginView }

// plugins is what `plugin list --json` prints.
type plugins struct {
	Plugins  []pluginEntry `json:"plugins"`
	Problems []string      `json:"problems,omitempty"` // of folders
}

// pluginEntry is one plugin in it. State is "ok", "shadowed",
// "broken", or "waiting" for one under a debugger.
type pluginEntry struct {
	Kind       string `json:"kind"`
	Name       string `json:"name"`
	Version    string `json:"version,omitempty"`
	Path       string `json:"path"`
	State      string `json:"state"`
	ShadowedBy string `json:"shadowed_by,omitempty"`
	Problem    string `json:"problem,omitempty"`
}

// Execute implements flags.Commander.
func (c *pluginListCommand) Execute(args []string) error {
	if err := noArguments(args); err != nil {
		return err
	}
	finder, err := c.finder()
	if err != nil {
		return err
	}
	found, problems := finder.List()
	out := plugins{Plugins: make([]pluginEntry, len(found))}
	for _, problem := range problems {
		out.Problems = append(out.Problems, problem.Error())
	}
	err = c.withHost(func(ctx context.Context, h *host.Host) error {
		var wait sync.WaitGroup
		turns := make(chan struct{}, atOnce)
		for i, p := range found {
			turns <- struct{}{}
			wait.Go(func() {
				out.Plugins[i] = entry(ctx, h, p)
				<-turns
			})
		}
		wait.Wait()
		return ctx.Err()
	})
	if err != nil {
		return err
	}
	return c.show(out, out.table)
}

// atOnce is how many plugins are started at a time: more would be in each other's way, and
// with less a few that hang would take a minute.
const atOnce = 16

// entry starts a plugin to see whether it can be, and which version it is.
func entry(ctx context.Context, h *host.Host, p host.Found) pluginEntry {
	e := pluginEntry{Kind: p.Kind.String(), Name: p.Name, Path: p.Path, State: "ok", ShadowedBy: p.ShadowedBy}
	if p.Program.Waits() {
		e.State = "waiting" // for one start, which is not to be this one
		return e
	}
	problem := p.Problem
	if problem == nil {
		d, err := meet(ctx, h, p.Program)
		e.Version, problem = d.Version, err
	}
	switch {
	case problem != nil:
		e.State, e.Problem = "broken", problem.Error()
	case p.ShadowedBy != "":
		e.State = "shadowed"
	}
	return e
}

func (p plugins) table(w *tabwriter.Writer) {
	_, _ = fmt.Fprintln(w, "KIND\tNAME\tVERSION\tSTATE\tPATH")
	for _, e := range p.Plugins {
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", e.Kind, e.Name, orDash(e.Version), e.State, e.Path)
	}
	_ = w.Flush() // what follows is not in columns
	for _, e := range p.Plugins {
		switch {
		case e.Problem != "":
			_, _ = fmt.Fprintf(w, "\n%s is broken: %s\n", e.Path, e.Problem)
		case e.ShadowedBy != "":
			_, _ = fmt.Fprintf(w, "\n%s is shadowed by %s, which is found first\n", e.Path, e.ShadowedBy)
		}
	}
	for _, problem := range p.Problems {
		_, _ = fmt.Fprintf(w, "\n%s\n", problem)
	}
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
