// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/hashicorp/go-hclog"

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

// targetOptions say where a server is, or is to be.
type targetOptions struct {
	Addr string `short:"l" long:"addr" value-name:"ADDR" required:"yes" description:"The address of the server"`
	Port port   `short:"p" long:"port" value-name:"PORT" required:"yes" description:"The port of the server, 0 to 65535"`
}

func (t targetOptions) address() transport.Address {
	return transport.Address{Addr: t.Addr, Port: uint16(t.Port)}
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
