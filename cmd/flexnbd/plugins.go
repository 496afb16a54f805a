// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/flexnbd/flexnbd/core/host"
	"github.com/flexnbd/flexnbd/core/launch"
	"github.com/flexnbd/flexnbd/core/sandbox"
	blockdev "github.com/flexnbd/flexnbd/plugins/backend-blockdev"
	backendfile "github.com/flexnbd/flexnbd/plugins/backend-file"
	tcp "github.com/flexnbd/flexnbd/plugins/transport-tcp"
	unixsocket "github.com/flexnbd/flexnbd/plugins/transport-unix"
	"github.com/flexnbd/flexnbd/sdk"
	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// stock are the plugins inside this binary. Each runs as a process of its own,
// out of /proc/self/exe, and is confined to what it needs.
var stock = []struct {
	kind  wire.Kind
	name  string
	needs host.Needs
	serve func(confined bool)
}{
	{wire.KindBackend, "file", host.Needs{Disk: true}, serveBackend(backendfile.Plugin())},
	{wire.KindBackend, "blockdev", host.Needs{Disk: true}, serveBackend(blockdev.Plugin())},
	{wire.KindTransport, "tcp", host.Needs{Internet: true}, serveTransport(tcp.Plugin())},
	{wire.KindTransport, "unix", host.Needs{Sockets: true}, serveTransport(unixsocket.Plugin())},
}

func serveTransport(t sdk.Transport) func(bool) { return func(bool) { sdk.ServeTransport(t) } }

// serveBackend serves a backend that gives up root's rights once its disk is open: until
// then it may need them for a file that its user can't open.
func serveBackend(b sdk.Backend) func(bool) {
	return func(confined bool) {
		open := b.Open
		b.Open = func(ctx context.Context, disk sdk.Disk) (store.Store, error) {
			s, err := open(ctx, disk)
			if err != nil || !confined {
				return s, err
			}
			if err := sandbox.DropCapabilities(); err != nil {
				return nil, errors.Join(err, s.Close())
			}
			return s, nil
		}
		sdk.ServeBackend(b)
	}
}

// Verbs that this binary is started with by itself. They are not for people.
const (
	stockVerb   = "run-plugin"
	standInVerb = "stand-in" // for a plugin that waits under a debugger
)

// runStock runs as a stock plugin, or stands in for a plugin, if the arguments say so,
// and then does not return.
func runStock(args []string, confined bool) bool {
	if len(args) != 3 || args[1] != stockVerb && args[1] != standInVerb {
		return false
	}
	if args[1] == standInVerb {
		if err := sdk.StandIn(args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(exitFailure)
		}
		os.Exit(0)
	}
	for _, s := range stock {
		if args[2] == s.kind.String()+"-"+s.name {
			s.serve(confined)
		}
	}
	return false
}

// runLaunched runs as the launcher of plugins, or as what a launcher has started, if
// the arguments say so. It returns the arguments to go on with.
func runLaunched(args []string) (_ []string, confined bool) {
	var err error
	switch {
	case launch.IsLauncher(args):
		if err = host.ServeLauncher(); err == nil {
			os.Exit(0)
		}
	case launch.IsChild(args):
		args, confined, err = launch.Become()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(exitFailure)
	}
	return args, confined
}

// finder looks for plugins where the operator and the system have them.
func (o pluginOptions) finder() (*host.Finder, error) {
	dirs, err := host.SearchPath(o.PluginDir, os.Getenv, os.Geteuid())
	if err != nil {
		return nil, usageError{err}
	}
	f := &host.Finder{Dirs: dirs}
	f.Waiting, err = host.Waiting(os.Getenv(wire.EnvReattach), func(socket string) []string {
		return []string{"flexnbd", standInVerb, socket}
	})
	if err != nil {
		return nil, usageError{err}
	}
	for _, s := range stock {
		f.Stock = append(f.Stock, host.Stock{
			Kind:  s.kind,
			Name:  s.name,
			Args:  []string{"flexnbd", stockVerb, s.kind.String() + "-" + s.name},
			Needs: &s.needs,
		})
	}
	return f, nil
}

// defaultBackend is the stock backend for what --file names.
func defaultBackend(file string) string {
	if st, err := os.Stat(file); err == nil && st.Mode()&(fs.ModeDevice|fs.ModeCharDevice) == fs.ModeDevice {
		return "blockdev"
	}
	return "file"
}

// find returns the program that value, of --backend or --transport, asks for.
func (o pluginOptions) find(kind wire.Kind, value string) (host.Program, host.Spec, error) {
	spec, err := host.ParseSpec(kind, value)
	if err != nil {
		return host.Program{}, host.Spec{}, usageError{err}
	}
	finder, err := o.finder()
	if err != nil {
		return host.Program{}, host.Spec{}, err
	}
	program, err := finder.Find(spec)
	if err != nil {
		return host.Program{}, host.Spec{}, usageError{err}
	}
	return program, spec, nil
}
