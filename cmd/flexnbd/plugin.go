// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"

	"github.com/flexnbd/flexnbd/core/bundle"
	"github.com/flexnbd/flexnbd/core/host"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// pluginCommand is the verb of verbs about plugins.
type pluginCommand struct {
	List      pluginListCommand      `command:"list" description:"Show all plugins that are found, and why those that can't be used can't"`
	Info      pluginInfoCommand      `command:"info" description:"Show what a plugin says about itself, and its options"`
	Verify    pluginVerifyCommand    `command:"verify" description:"Compare installed plugins with their checksums and manifests"`
	Install   pluginInstallCommand   `command:"install" description:"Install a plugin from a bundle"`
	Uninstall pluginUninstallCommand `command:"uninstall" description:"Remove an installed plugin"`
	Path      pluginPathCommand      `command:"path" description:"Show where plugins are looked for"`
	Check     pluginCheckCommand     `command:"check" description:"Test a plugin's binary against its contract"`
	Bundle    pluginBundleCommand    `command:"bundle" description:"Make a bundle of a plugin's binary"`
}

func newPluginCommand(a *app) *pluginCommand {
	c := &pluginCommand{}
	for _, v := range []*pluginView{
		&c.List.pluginView, &c.Info.pluginView, &c.Verify.pluginView, &c.Install.pluginView,
		&c.Uninstall.pluginView, &c.Path.pluginView, &c.Check.pluginView, &c.Bundle.pluginView,
	} {
		v.app = a
	}
	return c
}

// pluginView is what the verbs about plugins have in common.
type pluginView struct {
	PluginDir []string `long:"plugin-dir" value-name:"DIR" description:"Look for plugins here first; may be repeated"`
	JSON      bool     `long:"json" description:"Print JSON, for programs"`
	app       *app
}

func (v *pluginView) finder() (*host.Finder, error) {
	return pluginOptions{PluginDir: v.PluginDir}.finder()
}

// show prints facts as JSON, or has table print them for people.
func (v *pluginView) show(facts any, table func(w *tabwriter.Writer)) error {
	if v.JSON {
		out := json.NewEncoder(v.app.stdout)
		out.SetIndent("", "  ")
		out.SetEscapeHTML(false)
		return out.Encode(facts)
	}
	w := tabwriter.NewWriter(v.app.stdout, 0, 0, 2, ' ', 0)
	table(w)
	return w.Flush()
}

// withHost calls do with a host for plugins that are started for a moment, and a
// context that ends when the user has had enough.
func (v *pluginView) withHost(do func(context.Context, *host.Host) error) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	h, err := host.New(v.app.logger("main"))
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := h.Close(); err == nil {
			err = closeErr
		}
	}()
	return do(ctx, h)
}

// meet starts a plugin to hear what it says about itself, and ends it.
func meet(ctx context.Context, h *host.Host, program host.Program) (d wire.Description, err error) {
	p, err := h.Start(ctx, program)
	if err != nil {
		return d, err
	}
	d = p.Description()
	if err := p.Stop(ctx); err != nil {
		return d, err
	}
	_, name, ok := host.NameOf(program.Path)
	if program.Bundle != "" {
		name = program.Name
	}
	if ok && d.Name != name {
		return d, fmt.Errorf("it calls itself %s %q, and is found as %q: rename its file or folder to flexnbd-%s-%s", d.Kind, d.Name, name, d.Kind, d.Name)
	}
	return d, nil
}

// agree returns nil if a plugin says the same about itself as its manifest.
func agree(d wire.Description, m bundle.Manifest) error {
	for _, f := range []struct{ what, binary, manifest string }{
		{"kind", d.Kind.String(), m.Kind},
		{"name", d.Name, m.Name},
		{"version", d.Version, m.Version},
		{"SDK", d.SDKVersion, m.SDKVersion},
	} {
		if f.binary != f.manifest {
			return fmt.Errorf("%s says that its %s is %q, and the binary says %q: the bundle was put together wrongly; get it anew", bundle.ManifestFile, f.what, f.manifest, f.binary)
		}
	}
	return nil
}

// pick finds the plugin that an argument means: NAME, KIND-NAME or flexnbd-KIND-NAME of
// one that is found and not shadowed, or the path of a binary or a bundle's folder.
func pick(f *host.Finder, argument string) (host.Found, error) {
	if strings.Contains(argument, "/") {
		return pickPath(argument)
	}
	argument, stock := strings.CutPrefix(argument, "builtin:")
	list, _ := f.List()
	var hits []host.Found
	var names []string
	for _, p := range list {
		if p.ShadowedBy != "" && !stock || stock && p.Path != "builtin" {
			continue
		}
		full := p.Kind.String() + "-" + p.Name
		names = append(names, full)
		if argument == p.Name || argument == full || argument == "flexnbd-"+full {
			hits = append(hits, p)
		}
	}
	switch len(hits) {
	case 0:
		return host.Found{}, usagef("there is no plugin %q; there are: %s; looked in: %s, and inside this binary", argument, strings.Join(names, ", "), strings.Join(f.Dirs, ", "))
	case 1:
		return hits[0], nil
	}
	return host.Found{}, usagef("%q is a backend and a transport; write backend-%s or transport-%s", argument, argument, argument)
}

func pickPath(path string) (host.Found, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return host.Found{}, err
	}
	kind, name, ok := host.NameOf(path)
	if !ok {
		return host.Found{}, usagef("%s: a plugin's file or folder is called flexnbd-backend-NAME or flexnbd-transport-NAME", path)
	}
	found := host.Found{Kind: kind, Name: name, Path: path}
	found.Program, found.Problem = (&host.Finder{}).Find(host.Spec{Kind: kind, Path: path})
	return found, nil
}

// bundleOf returns the folder of the bundle that a plugin is in, or "".
func bundleOf(p host.Found) string {
	if p.Program.Bundle != "" {
		return p.Program.Bundle
	}
	if st, err := os.Stat(p.Path); filepath.IsAbs(p.Path) && err == nil && st.IsDir() {
		return p.Path // a broken one
	}
	return ""
}
