// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"fmt"
	"io/fs"
	"os"

	"github.com/flexnbd/flexnbd/core/host"
	blockdev "github.com/flexnbd/flexnbd/plugins/backend-blockdev"
	backendfile "github.com/flexnbd/flexnbd/plugins/backend-file"
	tcp "github.com/flexnbd/flexnbd/plugins/transport-tcp"
	unixsocket "github.com/flexnbd/flexnbd/plugins/transport-unix"
	"github.com/flexnbd/flexnbd/sdk"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// stock are the plugins inside this binary. Each runs as a process of its own,
// out of /proc/self/exe.
var stock = []struct {
	kind  wire.Kind
	name  string
	serve func()
}{
	{wire.KindBackend, "file", func() { sdk.ServeBackend(backendfile.Plugin()) }},
	{wire.KindBackend, "blockdev", func() { sdk.ServeBackend(blockdev.Plugin()) }},
	{wire.KindTransport, "tcp", func() { sdk.ServeTransport(tcp.Plugin()) }},
	{wire.KindTransport, "unix", func() { sdk.ServeTransport(unixsocket.Plugin()) }},
}

// stockVerb makes this binary run as a stock plugin. It is not for people.
const stockVerb = "run-plugin"

// standInVerb makes this binary stand in for a plugin that waits under a debugger.
const standInVerb = "stand-in"

// runStock runs as a stock plugin, or stands in for a plugin, if the arguments say so,
// and then does not return.
func runStock(args []string) bool {
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
			s.serve()
		}
	}
	return false
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
			Kind: s.kind,
			Name: s.name,
			Args: []string{"flexnbd", stockVerb, s.kind.String() + "-" + s.name},
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
