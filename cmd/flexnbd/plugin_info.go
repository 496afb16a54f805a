// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/flexnbd/flexnbd/core/bundle"
	"github.com/flexnbd/flexnbd/core/host"
	"github.com/flexnbd/flexnbd/sdk/option"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

type pluginInfoCommand struct {
	pluginView
	Args struct {
		Plugin string `positional-arg-name:"PLUGIN" description:"A plugin's name, or the path of its binary or bundle" required:"yes"`
	} `positional-args:"yes"`
}

// pluginFacts is what `plugin info --json` prints.
type pluginFacts struct {
	Kind       string           `json:"kind"`
	Name       string           `json:"name"`
	Version    string           `json:"version"`
	Path       string           `json:"path"`
	Vendor     string           `json:"vendor,omitempty"`
	Homepage   string           `json:"homepage,omitempty"`
	License    string           `json:"license,omitempty"`
	SDKVersion string           `json:"sdk_version,omitempty"`
	Bundle     *bundle.Manifest `json:"bundle,omitempty"`
	// DeclaresOptions is false for a plugin that does not say which options it has.
	DeclaresOptions bool           `json:"declares_options"`
	Options         []pluginOption `json:"options"`
}

// pluginOption is one of its options.
type pluginOption struct {
	Name     string `json:"name"`
	Type     string `json:"type"`
	Default  string `json:"default,omitempty"`
	Required bool   `json:"required,omitempty"`
	Values   string `json:"values,omitempty"` // which are allowed, in words
	Help     string `json:"help,omitempty"`
}

// Execute implements flags.Commander.
func (c *pluginInfoCommand) Execute(args []string) error {
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
	facts, err := c.facts(p)
	if err != nil {
		return err
	}
	return c.show(facts, facts.table)
}

// facts are what a plugin and its manifest say.
func (v *pluginView) facts(p host.Found) (facts pluginFacts, err error) {
	if p.Problem != nil {
		return facts, p.Problem
	}
	if p.Program.Waits() {
		return facts, errWaits(p)
	}
	var d wire.Description
	if err := v.withHost(func(ctx context.Context, h *host.Host) (err error) {
		d, err = meet(ctx, h, p.Program)
		return err
	}); err != nil {
		return facts, err
	}
	facts = pluginFacts{
		Kind: d.Kind.String(), Name: d.Name, Version: d.Version, Path: p.Path,
		Vendor: d.Vendor, Homepage: d.Homepage, License: d.License, SDKVersion: d.SDKVersion,
		DeclaresOptions: d.DeclaresOptions, Options: optionsOf(d.Options),
	}
	if dir := bundleOf(p); dir != "" {
		b, err := bundle.Open(dir)
		if err != nil {
			return facts, err
		}
		facts.Bundle = &b.Manifest
		return facts, b.Close()
	}
	return facts, nil
}

func optionsOf(set option.Set) []pluginOption {
	list := make([]pluginOption, len(set))
	for i, o := range set {
		list[i] = pluginOption{Name: o.Name, Type: o.Type.String(), Default: o.Default, Required: o.Required, Values: o.Bounds(), Help: o.Help}
	}
	return list
}

func (f pluginFacts) table(w *tabwriter.Writer) {
	for _, line := range [][2]string{
		{"Kind", f.Kind}, {"Name", f.Name}, {"Version", f.Version}, {"Path", f.Path},
		{"Vendor", f.Vendor}, {"Homepage", f.Homepage}, {"Licence", f.License}, {"SDK", f.SDKVersion},
	} {
		if line[1] != "" {
			_, _ = fmt.Fprintf(w, "%s:\t%s\n", line[0], line[1])
		}
	}
	if f.Bundle != nil && len(f.Bundle.Needs) > 0 {
		_, _ = fmt.Fprintf(w, "Needs:\t%s\n", strings.Join(f.Bundle.Needs, ", "))
	}
	_ = w.Flush() // the options' columns are their own
	if len(f.Options) == 0 {
		_, _ = fmt.Fprintln(w, "\n"+f.withoutOptions())
		return
	}
	_, _ = fmt.Fprintf(w, "\nOptions, as in --%s %s,%s=...\n\n", f.Kind, f.Name, f.Options[0].Name)
	writeOptions(w, f.Options)
}

// withoutOptions says why there is no table of options.
func (f pluginFacts) withoutOptions() string {
	if !f.DeclaresOptions {
		return "It does not say which options it has."
	}
	return "It has no options."
}

// errWaits: a plugin under a debugger is there for one start.
func errWaits(p host.Found) error {
	return usagef("%s %s waits under a debugger, for one start, which is not to be this one", p.Kind, p.Name)
}

// writeOptions writes a table of options.
func writeOptions(w *tabwriter.Writer, options []pluginOption) {
	_, _ = fmt.Fprintln(w, "OPTION\tTYPE\tDEFAULT\tVALUES\tMEANING")
	for _, o := range options {
		byDefault := orDash(o.Default)
		if o.Required {
			byDefault = "required"
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", o.Name, o.Type, byDefault, orDash(o.Values), o.Help)
	}
}
