// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"time"

	"github.com/flexnbd/flexnbd/core/acl"
	"github.com/flexnbd/flexnbd/core/session"
	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// diskOptions say which disk a server serves, or waits for, and how.
type diskOptions struct {
	Addr     string `short:"l" long:"addr" value-name:"ADDR" required:"yes" description:"The address to listen on; with --transport unix a path"`
	Port     *port  `short:"p" long:"port" value-name:"PORT" description:"The port to listen on; 0 picks one, which status shows. Required with --transport tcp"`
	File     string `short:"f" long:"file" value-name:"FILE" required:"yes" description:"The file to serve, or what the backend takes instead; must exist"`
	ID       string `long:"disk-id" value-name:"NAME" description:"What to call the disk in records, instead of what the backend calls it"`
	StateDir string `long:"state-dir" value-name:"DIR" default:"/var/lib/flexnbd" description:"Where the records of disks that are not files are kept; those of a file are beside it"`
	Sock     string `short:"s" long:"sock" value-name:"SOCK" description:"The control socket to open"`

	DefaultDeny bool    `short:"d" long:"default-deny" description:"With an empty access list, let nobody connect"`
	MaxClients  int     `long:"max-clients" value-name:"N" default:"256" description:"The most clients that may be connected at a time"`
	Handshake   string  `long:"handshake" choice:"newstyle" choice:"oldstyle" default:"newstyle" description:"What clients have to speak; oldstyle is for those of flexnbd 0.x, and for migrations from it"`
	Killswitch  bool    `short:"k" long:"killswitch" description:"Disconnect a client one of whose requests takes over 120 seconds"`
	Backend     *string `long:"backend" value-name:"NAME|/PATH[,key=value...]" description:"The backend plugin (default: blockdev for a block device, else file)"`

	Lane string `long:"lane" choice:"rpc" choice:"ring" choice:"file" description:"How data passes between flexnbd and the backend (default: the fastest that both can)"`

	pluginOptions
	safetyOptions
}

// killswitchTime is how long a request may take with --killswitch.
const killswitchTime = 120 * time.Second

// handshake is what --handshake names.
func (o *diskOptions) handshake() session.Handshake {
	if o.Handshake == "oldstyle" {
		return session.Oldstyle
	}
	return session.Newstyle
}

// requestTimeout is how long a request may take; 0 means for ever.
func (o *diskOptions) requestTimeout() time.Duration {
	if o.Killswitch {
		return killswitchTime
	}
	return 0
}

// lanes are what the backend is offered, best first.
func (o *diskOptions) lanes() []string {
	if o.Lane != "" {
		return []string{o.Lane}
	}
	return []string{wire.LaneFile, wire.LaneRing, wire.LaneRPC}
}

// backend is what --backend says. Without it what --file names decides.
func (o *diskOptions) backend() string {
	if o.Backend != nil {
		return *o.Backend
	}
	return defaultBackend(o.File)
}

// serving checks the options and makes a server of them. entries are the access
// list.
func (o *diskOptions) serving(a *app, entries []string) (*serving, error) {
	if o.MaxClients < 1 {
		return nil, usagef("--max-clients %d: at least one client has to fit", o.MaxClients)
	}
	if !store.ValidIdentity(o.ID) {
		return nil, usagef("--disk-id %q: a name has up to %d bytes of printable ASCII without spaces", o.ID, store.MaxIdentity)
	}
	list, err := acl.Parse(entries, o.DefaultDeny)
	if err != nil {
		return nil, usageError{err}
	}
	backend, spec, err := o.find(wire.KindBackend, o.backend())
	if err != nil {
		return nil, err
	}
	transport, carrier, err := o.find(wire.KindTransport, o.Transport)
	if err != nil {
		return nil, err
	}
	at, err := address(o.Addr, o.Port, carrier)
	if err != nil {
		return nil, err
	}
	user, err := o.user()
	if err != nil {
		return nil, err
	}
	socket, err := o.socket(user)
	if err != nil {
		return nil, err
	}
	return &serving{
		options:   o,
		user:      user,
		socket:    socket,
		acl:       list,
		log:       a.logger("main"),
		named:     a.logger,
		backend:   backend,
		disk:      wire.Disk{Location: o.File, Options: spec.Options, Lanes: o.lanes()},
		transport: transport,
		carrier:   carrier,
		at:        at,
	}, nil
}
