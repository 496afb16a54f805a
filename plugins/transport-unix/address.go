// SPDX-License-Identifier: GPL-3.0-or-later

package unixsocket

import (
	"errors"
	"fmt"
	"strings"

	"github.com/flexnbd/flexnbd/sdk/socketfile"
	"github.com/flexnbd/flexnbd/sdk/transport"
)

// checkAddress returns nil if a socket can have the address addr.
func checkAddress(addr transport.Address) error {
	switch {
	case addr.Addr == "":
		return errors.New("no path is given; write the socket's path, /run/disk.sock, say")
	case addr.Port != 0:
		return fmt.Errorf("a Unix socket has a path and no port, and port %d was given; leave it out, or give 0", addr.Port)
	case strings.HasPrefix(addr.Addr, "@"):
		return errors.New("a socket without a file (@name) is open to every process of this machine; write a path that begins with /")
	case !strings.HasPrefix(addr.Addr, "/"):
		return fmt.Errorf("%q is a relative path, and this plugin runs in another directory than you; write it in full, from / on", addr.Addr)
	}
	return socketfile.Check(addr.Addr)
}

// badAddress is an error about an address that cannot be one. It may hold
// anything, and is quoted.
func badAddress(doing string, addr transport.Address, err error) error {
	return fmt.Errorf("%s %q: %w", doing, addr.String(), err)
}
