// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"time"

	"github.com/flexnbd/flexnbd/core/acl"
	"github.com/flexnbd/flexnbd/core/session"
	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

type serveCommand struct {
	Addr string `short:"l" long:"addr" value-name:"ADDR" required:"yes" description:"The address to listen on; with --transport unix a path"`
	Port *port  `short:"p" long:"port" value-name:"PORT" description:"The port to listen on; 0 picks one, which status shows. Required with --transport tcp"`
	File string `short:"f" long:"file" value-name:"FILE" required:"yes" description:"The file to serve, or what the backend takes instead; must exist"`
	ID   string `long:"disk-id" value-name:"NAME" description:"What to call the disk in records, instead of what the backend calls it"`
	Sock string `short:"s" long:"sock" value-name:"SOCK" description:"The control socket to open"`

	DefaultDeny bool    `short:"d" long:"default-deny" description:"With an empty access list, let nobody connect"`
	ReadOnly    bool    `short:"r" long:"read-only" description:"Refuse writes, and share the file with other read-only servers"`
	MaxClients  int     `long:"max-clients" value-name:"N" default:"256" description:"The most clients that may be connected at a time"`
	Handshake   string  `long:"handshake" choice:"newstyle" choice:"oldstyle" default:"newstyle" description:"What clients have to speak; oldstyle is for those of flexnbd 0.x"`
	Killswitch  bool    `short:"k" long:"killswitch" description:"Disconnect a client one of whose requests takes over 120 seconds"`
	Backend     *string `long:"backend" value-name:"NAME|/PATH[,key=value...]" description:"The backend plugin (default: blockdev for a block device, else file)"`

	Lane string `long:"lane" choice:"rpc" choice:"file" description:"How data passes between flexnbd and the backend (default: the fastest that both can)"`

	pluginOptions
	app *app
}

// Usage implements flags.Usage.
func (c *serveCommand) Usage() string {
	return "--addr ADDR --port PORT --file FILE [options] [ACL entry]..."
}

// killswitchTime is how long a request may take with --killswitch.
const killswitchTime = 120 * time.Second

// handshake is what --handshake names.
func (c *serveCommand) handshake() session.Handshake {
	if c.Handshake == "oldstyle" {
		return session.Oldstyle
	}
	return session.Newstyle
}

// requestTimeout is how long a request may take; 0 means for ever.
func (c *serveCommand) requestTimeout() time.Duration {
	if c.Killswitch {
		return killswitchTime
	}
	return 0
}

// lanes are what the backend is offered, best first.
func (c *serveCommand) lanes() []string {
	if c.Lane != "" {
		return []string{c.Lane}
	}
	return []string{wire.LaneFile, wire.LaneRPC}
}

// backend is what --backend says. Without it what --file names decides.
func (c *serveCommand) backend() string {
	if c.Backend != nil {
		return *c.Backend
	}
	return defaultBackend(c.File)
}

// Execute implements flags.Commander. Arguments are access list entries.
func (c *serveCommand) Execute(args []string) error {
	if c.MaxClients < 1 {
		return usagef("--max-clients %d: at least one client has to fit", c.MaxClients)
	}
	if !store.ValidIdentity(c.ID) {
		return usagef("--disk-id %q: a name has up to %d bytes of printable ASCII without spaces", c.ID, store.MaxIdentity)
	}
	list, err := acl.Parse(args, c.DefaultDeny)
	if err != nil {
		return usageError{err}
	}
	backend, spec, err := c.find(wire.KindBackend, c.backend())
	if err != nil {
		return err
	}
	carrier, carrierSpec, err := c.find(wire.KindTransport, c.Transport)
	if err != nil {
		return err
	}
	at, err := address(c.Addr, c.Port, carrierSpec)
	if err != nil {
		return err
	}
	s := &serving{
		command:   c,
		acl:       list,
		log:       c.app.logger("main"),
		backend:   backend,
		disk:      wire.Disk{Location: c.File, ReadOnly: c.ReadOnly, Options: spec.Options, Lanes: c.lanes()},
		transport: carrier,
		at:        at,
	}
	return s.run()
}
