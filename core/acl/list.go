// SPDX-License-Identifier: GPL-3.0-or-later

package acl

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/flexnbd/flexnbd/sdk/transport"
)

// List is an access control list: addresses and networks that may connect. The
// zero List lets everyone connect.
type List struct {
	entries     []netip.Prefix
	defaultDeny bool // what an empty list means
}

// BadEntry is an entry that could not be read.
type BadEntry struct {
	Entry string
}

func (e *BadEntry) Error() string {
	return fmt.Sprintf("bad access list entry %q: give an IP address, or a network as in 10.0.0.0/8 or fd00::/8", e.Entry)
}

// Parse reads entries: IPv4 and IPv6 addresses, and networks in CIDR notation.
// An IPv4 address in IPv6 clothes (::ffff:10.0.0.1) means the IPv4 address.
// defaultDeny says what an empty list means: nobody, instead of everybody. The
// error is a [*BadEntry].
func Parse(entries []string, defaultDeny bool) (List, error) {
	l := List{defaultDeny: defaultDeny}
	for _, entry := range entries {
		prefix, err := parseEntry(entry)
		if err != nil {
			return List{}, &BadEntry{Entry: entry}
		}
		l.entries = append(l.entries, prefix)
	}
	return l, nil
}

func parseEntry(entry string) (netip.Prefix, error) {
	if !strings.Contains(entry, "/") {
		addr, err := netip.ParseAddr(entry)
		if err != nil {
			return netip.Prefix{}, err
		}
		addr = addr.Unmap().WithZone("")
		return addr.Prefix(addr.BitLen())
	}
	prefix, err := netip.ParsePrefix(entry)
	if err != nil {
		return netip.Prefix{}, err
	}
	if addr := prefix.Addr(); addr.Is4In6() {
		const mapped = 96 // bits in front of the IPv4 address
		if prefix.Bits() < mapped {
			return netip.Prefix{}, fmt.Errorf("%s is wider than IPv4", entry)
		}
		return addr.Unmap().Prefix(prefix.Bits() - mapped)
	}
	return prefix.Masked(), nil
}

// Allows says whether a peer may connect. A peer whose address is not an IP
// address is allowed by an empty list only, and not by one that denies.
func (l List) Allows(peer transport.Peer) bool {
	if len(l.entries) == 0 {
		return !l.defaultDeny
	}
	at, err := netip.ParseAddrPort(peer.Address)
	if err != nil {
		return false
	}
	addr := at.Addr().Unmap().WithZone("")
	for _, entry := range l.entries {
		if entry.Contains(addr) {
			return true
		}
	}
	return false
}
