// SPDX-License-Identifier: GPL-3.0-or-later

package acl

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os/user"
	"strconv"
	"strings"
)

// maxName is the longest name of a user or group that is looked up, in bytes;
// longer than Linux lets any be.
const maxName = 256

// The words in front of a user and of a group.
const (
	userWord  = "uid:"
	groupWord = "gid:"
)

// BadEntry is an entry that could not be read.
type BadEntry struct {
	// Entry is the entry as it was given.
	Entry string
	cause error
}

// Error names the entry, says what is wrong with it, and what would be right.
func (e *BadEntry) Error() string {
	return fmt.Sprintf("bad access list entry %q: %v", e.Entry, e.cause)
}

// Unwrap returns what is wrong.
func (e *BadEntry) Unwrap() error { return e.cause }

var errForm = errors.New("give an IP address, a network as in 10.0.0.0/8 or fd00::/8, uid:USER or gid:GROUP")

// add puts entry into the list.
func (l *List) add(entry string) error {
	if name, ok := strings.CutPrefix(entry, userWord); ok {
		uid, err := number(name, lookupUser)
		l.uids = append(l.uids, uid)
		return err
	}
	if name, ok := strings.CutPrefix(entry, groupWord); ok {
		gid, err := number(name, lookupGroup)
		l.gids = append(l.gids, gid)
		return err
	}
	network, err := parseNetwork(entry)
	l.networks = append(l.networks, network)
	return err
}

func parseNetwork(entry string) (netip.Prefix, error) {
	if !strings.Contains(entry, "/") {
		addr, err := netip.ParseAddr(entry)
		if err != nil {
			return netip.Prefix{}, errForm
		}
		addr = addr.Unmap().WithZone("")
		return addr.Prefix(addr.BitLen())
	}
	prefix, err := netip.ParsePrefix(entry)
	if err != nil {
		return netip.Prefix{}, errForm
	}
	if addr := prefix.Addr(); addr.Is4In6() {
		const mapped = 96 // bits in front of the IPv4 address
		if prefix.Bits() < mapped {
			return netip.Prefix{}, errors.New("the network is wider than IPv4; write ::/0 for all IPv6 addresses, 0.0.0.0/0 for all IPv4 addresses")
		}
		return addr.Unmap().Prefix(prefix.Bits() - mapped)
	}
	return prefix.Masked(), nil
}

// number returns the number of a user or group, which may be the name itself.
func number(name string, lookup func(string) (string, error)) (uint32, error) {
	if !isName(name) {
		return 0, errForm
	}
	digits := name
	if strings.Trim(name, "0123456789") != "" {
		var err error
		if digits, err = lookup(name); err != nil {
			return 0, err
		}
	}
	n, err := strconv.ParseUint(digits, 10, 32)
	// The last number is none: it means "leave as it is" to chown(2) and others.
	if err != nil || n == math.MaxUint32 || strconv.FormatUint(n, 10) != digits {
		return 0, fmt.Errorf("%q is no number from 0 to %d", digits, uint32(math.MaxUint32-1))
	}
	return uint32(n), nil
}

// isName tells whether name may be looked up: a line of /etc/passwd can hold it.
func isName(name string) bool {
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c == 0x7f || c == ':' {
			return false
		}
	}
	return name != "" && len(name) <= maxName
}

func lookupUser(name string) (string, error) {
	u, err := user.Lookup(name)
	if errors.As(err, new(user.UnknownUserError)) {
		return "", errors.New("this machine knows no user of that name; a number will do")
	}
	if err != nil {
		return "", fmt.Errorf("the user cannot be looked up; a number will do: %w", err)
	}
	return u.Uid, nil
}

func lookupGroup(name string) (string, error) {
	g, err := user.LookupGroup(name)
	if errors.As(err, new(user.UnknownGroupError)) {
		return "", errors.New("this machine knows no group of that name; a number will do")
	}
	if err != nil {
		return "", fmt.Errorf("the group cannot be looked up; a number will do: %w", err)
	}
	return g.Gid, nil
}
