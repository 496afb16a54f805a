// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"text/tabwriter"

	"github.com/flexnbd/flexnbd/core/bundle"
	"github.com/flexnbd/flexnbd/core/host"
)

type pluginInstallCommand struct {
	pluginView
	Replace bool `long:"replace" description:"Replace the plugin if it is installed already, in whatever version"`
	Args    struct {
		Bundle string `positional-arg-name:"BUNDLE" description:"A bundle: its folder, or its tarball" required:"yes"`
	} `positional-args:"yes"`
}

// installed is what `plugin install --json` prints.
type installed struct {
	Kind    string `json:"kind"`
	Name    string `json:"name"`
	Version string `json:"version"`
	Path    string `json:"path"`
}

// Execute implements flags.Commander. The first --plugin-dir is where it goes.
func (c *pluginInstallCommand) Execute(args []string) error {
	if err := noArguments(args); err != nil {
		return err
	}
	dir, err := c.target()
	if err != nil {
		return err
	}
	return c.withHost(func(ctx context.Context, h *host.Host) (err error) {
		b, err := bundle.Install(c.Args.Bundle, dir, bundle.InstallOptions{
			Replace: c.Replace,
			Check:   func(b *bundle.Bundle) error { return admit(ctx, h, b) },
		})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, b.Close()) }()
		facts := installed{Kind: b.Manifest.Kind, Name: b.Manifest.Name, Version: b.Manifest.Version, Path: b.Dir}
		return c.show(facts, func(w *tabwriter.Writer) {
			_, _ = fmt.Fprintf(w, "installed %s in %s\n", b.Manifest, b.Dir)
		})
	})
}

// admit returns nil if a plugin can be used here, and is what its bundle says.
func admit(ctx context.Context, h *host.Host, b *bundle.Bundle) error {
	program, err := host.InBundle(b.Manifest, b.Dir)
	if err != nil {
		return err
	}
	d, err := meet(ctx, h, program)
	if err != nil {
		return err
	}
	return agree(d, b.Manifest)
}

// target is the folder that plugins are installed in and removed from: the first
// --plugin-dir, or the first folder of the search order that is for that.
func (v *pluginView) target() (string, error) {
	finder, err := v.finder()
	if err != nil {
		return "", err
	}
	dir := finder.Dirs[0]
	if len(v.PluginDir) == 0 {
		if dir, err = host.InstallDir(os.Getenv, os.Geteuid()); err != nil {
			return "", err
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("%w; name another folder with --plugin-dir", err)
	}
	return dir, nil
}
