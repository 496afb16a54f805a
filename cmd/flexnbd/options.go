// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/hashicorp/go-hclog"

	"github.com/flexnbd/flexnbd/core/host"
	"github.com/flexnbd/flexnbd/core/logging"
	"github.com/flexnbd/flexnbd/sdk/transport"
)

// globalOptions may be given with every verb. Of --verbose and --quiet the last
// one wins, which is why they are functions.
type globalOptions struct {
	Verbose func() `short:"v" long:"verbose" description:"Output all available log information to standard error"`
	Quiet   func() `short:"q" long:"quiet" description:"Output as little log information as possible to standard error"`

	verbosity *logging.Verbosity
}

func newGlobalOptions() globalOptions {
	v := logging.Default
	return globalOptions{
		Verbose:   func() { v = logging.Verbose },
		Quiet:     func() { v = logging.Quiet },
		verbosity: &v,
	}
}

// logger makes the process's logger. thread is the part that speaks.
func (a *app) logger(thread string) hclog.Logger {
	return logging.New(a.stderr, *a.global.verbosity).Named(thread)
}

// pluginOptions choose where plugins are looked for and which transport is used.
type pluginOptions struct {
	Transport string   `long:"transport" value-name:"NAME|/PATH[,key=value...]" default:"tcp" description:"The transport plugin"`
	PluginDir []string `long:"plugin-dir" value-name:"DIR" description:"Look for plugins here first; may be repeated"`
}

// targetOptions say where a server is.
type targetOptions struct {
	Addr string `short:"l" long:"addr" value-name:"ADDR" required:"yes" description:"The address of the server; with --transport unix a path"`
	Port *port  `short:"p" long:"port" value-name:"PORT" description:"The port of the server, 0 to 65535. Required with --transport tcp"`
}

// address joins --addr and --port for a transport. TCP needs both; what others
// make of a port is for them to say.
func address(addr string, p *port, carrier host.Spec) (transport.Address, error) {
	switch {
	case len(carrier.Options) > 0:
		return transport.Address{}, usagef("--transport %s takes no options", carrier.Name+carrier.Path)
	case carrier.Name == "unix" && addr != "" && addr[0] != '@':
		// The plugin runs in another directory. It refuses names with @.
		path, err := filepath.Abs(addr)
		return transport.Address{Addr: path, Port: uint16(p.orZero())}, err
	case p != nil:
		return transport.Address{Addr: addr, Port: uint16(*p)}, nil
	case carrier.Name == "tcp":
		return transport.Address{}, usagef("the required flag `-p, --port' was not specified")
	}
	return transport.Address{Addr: addr}, nil
}

// port is a TCP port.
type port uint16

// UnmarshalFlag implements flags.Unmarshaler.
func (p *port) UnmarshalFlag(s string) error {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return fmt.Errorf("%q is no port number from 0 to 65535", s)
	}
	*p = port(n)
	return nil
}

// orZero is the port, or 0 if none was given.
func (p *port) orZero() port {
	if p == nil {
		return 0
	}
	return *p
}

// rangeOptions are a range of a remote disk, for one request.
type rangeOptions struct {
	From offset `short:"F" long:"from" value-name:"OFFSET" required:"yes" description:"The byte offset to start at, at most 2^62"`
	Size length `short:"S" long:"size" value-name:"SIZE" required:"yes" description:"The number of bytes, at most 2^30"`
	Bind string `short:"b" long:"bind" value-name:"BIND-ADDR" description:"The local address to connect from"`
}

// The manual's limits on read and write.
const (
	maxFrom = 1 << 62
	maxSize = 1 << 30
)

type offset uint64

// UnmarshalFlag implements flags.Unmarshaler.
func (o *offset) UnmarshalFlag(s string) error {
	n, err := parseBytes(s, maxFrom, "2^62")
	*o = offset(n)
	return err
}

type length uint32

// UnmarshalFlag implements flags.Unmarshaler.
func (l *length) UnmarshalFlag(s string) error {
	n, err := parseBytes(s, maxSize, "2^30")
	*l = length(n)
	return err
}

// parseBytes reads a number of bytes, decimal or with a prefix such as 0x.
func parseBytes(s string, limit uint64, limitText string) (uint64, error) {
	n, err := strconv.ParseUint(strings.TrimSpace(s), 0, 64)
	if err != nil || n > limit {
		return 0, fmt.Errorf("%q is no number of bytes from 0 to %s", s, limitText)
	}
	return n, nil
}
