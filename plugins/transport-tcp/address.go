// SPDX-License-Identifier: GPL-3.0-or-later

package tcp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/flexnbd/flexnbd/sdk/transport"
)

// maxName is the longest host name that DNS allows, in bytes.
const maxName = 253

var (
	errEmpty    = errors.New("no address is given; write 0.0.0.0 for every IPv4 address of this machine, :: for every address, or the one that is meant")
	errPortZero = errors.New("port 0 cannot be dialled; give the port that the server listens on")
)

// host is the Addr of an Address, once parsed: an IP literal (never
// IPv4-mapped), or else a name.
type host struct {
	ip   netip.Addr
	name string
}

func (h host) isName() bool { return h.name != "" }

func (h host) String() string {
	if h.isName() {
		return h.name
	}
	return h.ip.String()
}

// parseHost reads what an operator wrote. It looks nothing up.
func parseHost(addr string) (host, error) {
	if addr == "" {
		return host{}, errEmpty
	}
	if ip, err := netip.ParseAddr(addr); err == nil {
		ip = ip.Unmap()
		if ip.Is6() && ip.IsLinkLocalUnicast() && ip.Zone() == "" {
			return host{}, fmt.Errorf("%s is a link-local address, which needs its interface: %s%%eth0, say", ip, ip)
		}
		if !isZone(ip.Zone()) {
			return host{}, fmt.Errorf("%q is not an address: what follows %% is not an interface's name", addr)
		}
		return host{ip: ip}, nil
	}
	if strings.HasPrefix(addr, "[") {
		return host{}, fmt.Errorf("%q is not an address; write an IPv6 address without brackets, and the port apart from it", addr)
	}
	if !isName(addr) {
		return host{}, fmt.Errorf("%q is neither an IP address nor a host name", addr)
	}
	return host{name: addr}, nil
}

// isZone tells whether zone is empty or can be an interface's name or number,
// by Linux's rules; netip takes any text for one.
func isZone(zone string) bool {
	const maxInterface = 15
	for i := range len(zone) {
		if c := zone[i]; c <= ' ' || c >= 0x7f || c == '/' {
			return false
		}
	}
	return len(zone) <= maxInterface
}

// isName tells whether addr can be a host name. Digits and dots alone cannot:
// that is an IP address with a slip in it, and looking it up would only delay
// the answer.
func isName(addr string) bool {
	if len(addr) > maxName || strings.Trim(addr, "0123456789.") == "" {
		return false
	}
	for i := range len(addr) {
		c := addr[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '-' && i > 0, c == '.' && i > 0, c == '_':
		default:
			return false
		}
	}
	return true
}

// lookup returns the addresses that h stands for, IPv4 first; at least one.
func (h host) lookup(ctx context.Context) ([]netip.Addr, error) {
	if !h.isName() {
		return []netip.Addr{h.ip}, nil
	}
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", h.name)
	if err != nil {
		if ended := contextError(ctx); ended != nil {
			return nil, ended
		}
		return nil, &explained{
			sentence: fmt.Sprintf("the host name %s cannot be resolved (%s); check the name, or write an IP address", h.name, lookupReason(err)),
			cause:    err,
		}
	}
	var v4, v6 []netip.Addr
	for _, ip := range found {
		if ip = ip.Unmap(); ip.Is4() {
			v4 = append(v4, ip)
		} else {
			v6 = append(v6, ip)
		}
	}
	if len(v4)+len(v6) == 0 {
		return nil, fmt.Errorf("the host name %s has no address; write an IP address", h.name)
	}
	return append(v4, v6...), nil
}

// listenIP returns the one address to listen at.
func listenIP(ctx context.Context, addr transport.Address) (netip.Addr, error) {
	if err := ctx.Err(); err != nil {
		return netip.Addr{}, listenError(addr, err)
	}
	h, err := parseHost(addr.Addr)
	if err != nil {
		return netip.Addr{}, listenError(addr, err)
	}
	ips, err := h.lookup(ctx)
	if err != nil {
		return netip.Addr{}, listenError(addr, err)
	}
	return ips[0], nil
}

// bindIP returns the local address to dial target from, of target's family if
// that is known.
func bindIP(ctx context.Context, bind transport.Address, target host) (netip.Addr, error) {
	h, err := parseHost(bind.Addr)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("bad bind address: %w", err)
	}
	ips, err := h.lookup(ctx)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("bad bind address: %w", err)
	}
	for _, ip := range ips {
		if target.isName() || ip.IsUnspecified() || ip.Is4() == target.ip.Is4() {
			return ip, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("the bind address %s is %s and the target is %s; give a bind address of the target's kind",
		ips[0], family(ips[0]), family(target.ip))
}

func family(ip netip.Addr) string {
	if ip.Is4() {
		return "IPv4"
	}
	return "IPv6"
}
