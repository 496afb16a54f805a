// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/flexnbd/flexnbd/core/bundle"
	"github.com/flexnbd/flexnbd/core/host"
)

type pluginVerifyCommand struct {
	pluginView
	Args struct {
		Plugins []string `positional-arg-name:"PLUGIN" description:"A plugin's name, or the path of its bundle; without any, all that are found"`
	} `positional-args:"yes"`
}

// verified is one plugin in what `plugin verify --json` prints. State is "ok", "broken",
// "builtin", "waiting" for one under a
// debugger, or "unchecked" for one that is in no bundle and so has no checksums.
type verified struct {
	Kind    string `json:"kind"`
	Name    string `json:"name"`
	Path    string `json:"path"`
	State   string `json:"state"`
	Problem string `json:"problem,omitempty"`
}

// Execute implements flags.Commander.
func (c *pluginVerifyCommand) Execute(args []string) error {
	if err := noArguments(args); err != nil {
		return err
	}
	finder, err := c.finder()
	if err != nil {
		return err
	}
	var chosen []host.Found
	for _, argument := range c.Args.Plugins {
		p, err := pick(finder, argument)
		if err != nil {
			return err
		}
		chosen = append(chosen, p)
	}
	if len(c.Args.Plugins) == 0 {
		chosen, _ = finder.List()
	}
	list, broken := []verified{}, 0
	err = c.withHost(func(ctx context.Context, h *host.Host) error {
		for _, p := range chosen {
			v := verify(ctx, h, p)
			if v.State == "broken" {
				broken++
			}
			list = append(list, v)
		}
		return ctx.Err()
	})
	if err != nil {
		return err
	}
	if err := c.show(struct {
		Plugins []verified `json:"plugins"`
	}{list}, func(w *tabwriter.Writer) {
		_, _ = fmt.Fprintln(w, "KIND\tNAME\tSTATE\tPATH")
		for _, v := range list {
			_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", v.Kind, v.Name, v.State, v.Path)
		}
		_ = w.Flush()
		for _, v := range list {
			if v.Problem != "" {
				_, _ = fmt.Fprintf(w, "\n%s: %s\n", v.Path, v.Problem)
			}
		}
	}); err != nil {
		return err
	}
	if broken > 0 {
		return exitError(exitFailure)
	}
	return nil
}

func verify(ctx context.Context, h *host.Host, p host.Found) verified {
	v := verified{Kind: p.Kind.String(), Name: p.Name, Path: p.Path, State: "ok"}
	dir, err := bundleOf(p), p.Problem
	switch {
	case err == nil && dir != "":
		err = verifyBundle(ctx, h, p, dir)
	case p.Path == "builtin", p.Program.Waits():
		v.State = p.Path
	case err == nil:
		v.State, v.Problem = "unchecked", "it is in no bundle, so there is nothing to compare it with"
	}
	if err != nil {
		v.State, v.Problem = "broken", err.Error()
	}
	return v
}

func verifyBundle(ctx context.Context, h *host.Host, p host.Found, dir string) (err error) {
	b, err := bundle.Open(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	if err := b.Verify(); err != nil {
		return err
	}
	d, err := meet(ctx, h, p.Program)
	if err != nil {
		return err
	}
	return agree(d, b.Manifest)
}
