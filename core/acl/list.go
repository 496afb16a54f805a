// SPDX-License-Identifier: GPL-3.0-or-later

package acl

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/flexnbd/flexnbd/sdk/transport"
)

// List is an access control list: who may connect. The zero List lets everyone
// connect. A List is immutable; many goroutines may use it.
type List struct {
	networks    []netip.Prefix
	uids, gids  []uint32
	defaultDeny bool // what an empty list means
}

// Parse reads entries, of the forms in the package comment. An IPv4 address in
// IPv6 clothes (::ffff:10.0.0.1) means the IPv4 address; bits of a network beyond
// its length do not count, and neither does an address's zone. defaultDeny says
// what an empty list means: nobody, instead of everybody. The error is a
// [*BadEntry], for the first bad entry. Names may have to be asked of a directory
// service, which takes as long as it takes.
func Parse(entries []string, defaultDeny bool) (List, error) {
	l := List{defaultDeny: defaultDeny}
	for _, entry := range entries {
		if err := l.add(entry); err != nil {
			return List{}, &BadEntry{Entry: entry, cause: err}
		}
	}
	return l, nil
}

// Numeric returns the entries with the numbers of users and groups in place of their
// names, so that whoever reads them needs no database of users. What can't be looked up
// stays as it is.
func Numeric(entries []string) []string {
	numeric := slices.Clone(entries)
	for i, entry := range entries {
		for word, lookup := range map[string]func(string) (string, error){userWord: lookupUser, groupWord: lookupGroup} {
			if name, ok := strings.CutPrefix(entry, word); ok {
				if n, err := number(name, lookup); err == nil {
					numeric[i] = word + strconv.FormatUint(uint64(n), 10)
				}
			}
		}
	}
	return numeric
}

// Allows says whether a peer may connect. A peer that is neither at an IP address
// nor vouched for by the kernel is let in by an empty list only, and not by one
// that denies.
func (l List) Allows(peer transport.Peer) bool {
	if len(l.networks)+len(l.uids)+len(l.gids) == 0 {
		return !l.defaultDeny
	}
	if isLocal(peer) {
		return peer.Cred != nil && (slices.Contains(l.uids, peer.Cred.UID) || slices.Contains(l.gids, peer.Cred.GID))
	}
	at, err := netip.ParseAddrPort(peer.Address)
	if err != nil {
		return false
	}
	addr := at.Addr().Unmap().WithZone("")
	return slices.ContainsFunc(l.networks, func(n netip.Prefix) bool { return n.Contains(addr) })
}

// isLocal tells peers on a local socket from those on a network. The address of
// the former may be a name of their own choice, and look like an IP address.
func isLocal(peer transport.Peer) bool {
	return peer.Cred != nil || peer.Network == "unix"
}
