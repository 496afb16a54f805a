// SPDX-License-Identifier: GPL-3.0-or-later

package owner

import (
	"fmt"
	"net"
	"strconv"
)

// maxAddress is the longest Addr in a record, in bytes, as on the wire.
const maxAddress = 255

// Address is where a disk is served, as in transport.Address, into which it can
// be converted: records outlive the release that wrote them, and so do not hang
// on the plugins' contract.
type Address struct {
	Addr string `json:"addr"`
	Port uint16 `json:"port,omitempty"`
}

// String joins the parts: "127.0.0.1:4777", "[::1]:4777", "/run/x.sock".
func (a Address) String() string {
	if a.Port == 0 && len(a.Addr) > 0 && a.Addr[0] == '/' {
		return a.Addr
	}
	return net.JoinHostPort(a.Addr, strconv.Itoa(int(a.Port)))
}

// check is for an address to connect to, checkFrom for one to connect from, where
// no host means any.
func (a Address) check() error {
	if a.Addr == "" {
		return fmt.Errorf("an address of 0 bytes: 1 to %d are allowed", maxAddress)
	}
	return a.checkFrom()
}

func (a Address) checkFrom() error {
	if len(a.Addr) > maxAddress {
		return fmt.Errorf("an address of %d bytes: %d are the most", len(a.Addr), maxAddress)
	}
	for _, r := range a.Addr {
		if !strconv.IsPrint(r) {
			return fmt.Errorf("address %q has characters that cannot be printed", a.Addr)
		}
	}
	return nil
}
