// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"text/tabwriter"

	"github.com/flexnbd/flexnbd/core/bundle"
	"github.com/flexnbd/flexnbd/core/host"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

type pluginBundleCommand struct {
	pluginView
	Output  string   `short:"o" long:"output" value-name:"DIR" default:"." description:"Where the tarball goes"`
	License string   `long:"license" value-name:"FILE" description:"The licence's text (default: LICENSE beside the binary)"`
	Add     []string `long:"add" value-name:"FILE" description:"Another file, such as a manual page; may be repeated. BINARY.1 beside the binary is added by itself"`
	MinCore string   `long:"min-core" value-name:"VERSION" description:"The oldest flexnbd that will do"`
	Needs   []string `long:"needs" value-name:"WHAT" choice:"nothing" choice:"disk" choice:"internet" choice:"sockets" description:"What the plugin needs of the machine besides its bundle and the system's libraries; servers confine it to that. May be repeated (default: it is not confined)"`
	Args    struct {
		Binary string `positional-arg-name:"BINARY" description:"The plugin's binary, called flexnbd-backend-NAME or flexnbd-transport-NAME" required:"yes"`
	} `positional-args:"yes"`
}

// made is what `plugin bundle --json` prints.
type made struct {
	Path     string          `json:"path"`
	Manifest bundle.Manifest `json:"manifest"`
}

// Execute implements flags.Commander.
func (c *pluginBundleCommand) Execute(args []string) error {
	if err := noArguments(args); err != nil {
		return err
	}
	p, err := pickPath(c.Args.Binary)
	if err == nil {
		err = p.Problem
	}
	if err != nil {
		return err
	}
	var d wire.Description
	if err := c.withHost(func(ctx context.Context, h *host.Host) (err error) {
		d, err = meet(ctx, h, p.Program)
		return err
	}); err != nil {
		return err
	}
	files, err := c.files(p.Path)
	if err != nil {
		return err
	}
	m := c.manifest(d)
	if err := m.Check(); err != nil {
		return usageError{err}
	}
	path, err := c.make(m, files)
	if err != nil {
		return err
	}
	return c.show(made{Path: path, Manifest: m}, func(w *tabwriter.Writer) {
		_, _ = fmt.Fprintln(w, path)
	})
}

func (c *pluginBundleCommand) manifest(d wire.Description) bundle.Manifest {
	m := bundle.Manifest{
		Schema: bundle.Schema, Kind: d.Kind.String(), Name: d.Name, Version: d.Version,
		Vendor: d.Vendor, Homepage: d.Homepage, License: d.License,
		ProtocolVersions: []int{wire.ProtocolVersion}, SDKVersion: d.SDKVersion, MinCore: c.MinCore,
		Platforms: []string{runtime.GOOS + "/" + runtime.GOARCH}, Needs: c.Needs,
	}
	m.Executable = m.Folder()
	return m
}

// files are those of the bundle: their names there, and where they are.
func (c *pluginBundleCommand) files(binary string) (map[string]string, error) {
	files := map[string]string{filepath.Base(binary): binary}
	license := c.License
	if license == "" {
		license = filepath.Join(filepath.Dir(binary), "LICENSE")
	}
	if _, err := os.Stat(license); err != nil {
		return nil, usagef("a bundle has its licence's text in it: %v; name the file with --license", err)
	}
	files["LICENSE"] = license
	if manual := binary + ".1"; fileExists(manual) {
		files[filepath.Base(manual)] = manual
	}
	for _, path := range c.Add {
		if other, twice := files[filepath.Base(path)]; twice {
			return nil, usagef("--add %s: the bundle has a file of this name already, %s", path, other)
		}
		files[filepath.Base(path)] = path
	}
	return files, nil
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// make makes the tarball, of which there is all or nothing, and returns its path.
func (c *pluginBundleCommand) make(m bundle.Manifest, files map[string]string) (path string, err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	at, err := bundle.SourceDate(os.Getenv)
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "flexnbd-bundle-")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b, err := bundle.Build(filepath.Join(dir, m.Folder()), m, files)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	path = filepath.Join(c.Output, bundle.FileName(m))
	if err := os.MkdirAll(c.Output, 0o755); err != nil {
		return "", err
	}
	out, err := os.CreateTemp(c.Output, ".bundle-")
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(out.Name())
		}
	}()
	if err := errors.Join(bundle.Pack(until{ctx, out}, b, at), out.Chmod(0o644), out.Close()); err != nil {
		return "", err
	}
	return path, os.Rename(out.Name(), path)
}

// until is a writer that fails once ctx has ended.
type until struct {
	ctx context.Context
	io.Writer
}

func (u until) Write(p []byte) (int, error) {
	if err := context.Cause(u.ctx); err != nil {
		return 0, err
	}
	return u.Writer.Write(p)
}
