// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"net/netip"

	"github.com/flexnbd/flexnbd/sdk/transport"
)

type listenCommand struct {
	diskOptions
	RebindAddr string `short:"L" long:"rebind-addr" value-name:"REBIND-ADDR" description:"The address to serve at once the disk has arrived (default: --addr)"`
	RebindPort *port  `short:"P" long:"rebind-port" value-name:"REBIND-PORT" description:"The port to serve at once the disk has arrived (default: --port)"`
	OrServe    bool   `long:"or-serve" description:"Serve the disk if it has arrived already; for service managers, which start the same command again and again"`
	Overwrite  bool   `long:"overwrite" description:"Give up a copy that is known to be the right one, and wait for another"`
	app        *app
}

// Usage implements flags.Usage.
func (c *listenCommand) Usage() string {
	return "--addr ADDR --port PORT --file FILE [options] [ACL entry]..."
}

// Execute implements flags.Commander. Arguments are access list entries.
func (c *listenCommand) Execute(args []string) error {
	if c.RebindPort != nil && *c.RebindPort == 0 {
		return usagef("--rebind-port 0: the port has to be known before the disk arrives")
	}
	if c.OrServe && c.Overwrite {
		return usagef("--or-serve serves what --overwrite gives up: use one of them")
	}
	s, err := c.serving(c.app, args)
	if err != nil {
		return err
	}
	if c.RebindPort != nil && s.carrier.Name == "unix" {
		return usagef("--rebind-port with --transport unix: a Unix socket has a path and no port; say --rebind-addr PATH, or leave both out")
	}
	s.listen = &listening{orServe: c.OrServe, overwrite: c.Overwrite}
	if c.RebindAddr != "" || c.RebindPort != nil {
		home := s.at
		if c.RebindPort != nil {
			home.Port = uint16(*c.RebindPort)
		}
		if c.RebindAddr != "" {
			p := port(home.Port)
			if home, err = address(c.RebindAddr, &p, s.carrier); err != nil {
				return err
			}
		}
		if home.Port == 0 && s.carrier.Name == "tcp" {
			return usagef("--rebind-addr with --port 0: say --rebind-port too, since the port has to be known before the disk arrives")
		}
		switch overlap(home, s.at, s.carrier.Name) {
		case overlapPart:
			return usagef("the disk cannot be served at %v while it is waited for at %v, since one contains the other: use another port for one of them", home, s.at)
		case overlapNone:
			s.listen.rebind = &home
		}
	}
	return s.run()
}

// overlaps says how two addresses stand to each other.
type overlaps int

const (
	overlapNone overlaps = iota
	overlapAll           // they are the same
	overlapPart          // one is every address of the machine, the other one of them
)

func overlap(a, b transport.Address, carrier string) overlaps {
	if a == b {
		return overlapAll
	}
	x, errX := netip.ParseAddr(a.Addr)
	y, errY := netip.ParseAddr(b.Addr)
	switch {
	case carrier != "tcp" || errX != nil || errY != nil || a.Port != b.Port:
		return overlapNone
	case x.Unmap() == y.Unmap():
		return overlapAll
	case x.IsUnspecified() || y.IsUnspecified():
		return overlapPart
	}
	return overlapNone
}

// listening is what listen asks for beyond serve.
type listening struct {
	rebind             *transport.Address // nil: serve where the disk arrives
	orServe, overwrite bool
}
