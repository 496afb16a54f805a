// SPDX-License-Identifier: GPL-3.0-or-later

package unixsocket

import (
	"path"
	"strings"
	"testing"

	"github.com/flexnbd/flexnbd/sdk/socketfile"
	"github.com/flexnbd/flexnbd/sdk/transport"
)

func TestBadAddressesAreRefused(t *testing.T) {
	for _, c := range []struct {
		addr transport.Address
		says []string
	}{
		{transport.Address{}, []string{"no path is given"}},
		{transport.Address{Addr: "/run/x.sock", Port: 4777}, []string{`"/run/x.sock:4777"`, "no port, and port 4777"}},
		{transport.Address{Addr: "x.sock"}, []string{`"x.sock" is a relative path`, "from / on"}},
		{transport.Address{Addr: "./x.sock"}, []string{"relative"}},
		{transport.Address{Addr: "@x"}, []string{"open to every process"}},
		{transport.Address{Addr: "/tmp/" + strings.Repeat("x", 103)}, []string{"108 bytes, and the kernel takes 107"}},
		{transport.Address{Addr: "/tmp/\x00x"}, []string{`"/tmp/\x00x"`, "NUL"}},
	} {
		l, err := New().Listen(within(t), c.addr)
		if err == nil {
			_ = l.Close()
		}
		wants(t, err, nil, append(c.says, "listen on ")...)
		conn, err := New().Dial(within(t), c.addr, transport.Address{})
		if err == nil {
			_ = conn.Socket.Close()
		}
		wants(t, err, nil, append(c.says, "connect to ")...)
	}
}

// FuzzCheckAddress: what is accepted is a path from the root that the kernel
// takes.
func FuzzCheckAddress(f *testing.F) {
	for _, seed := range []string{"", "/", "/run/x.sock", "x", "@x", "/\x00", "/" + strings.Repeat("x", socketfile.MaxPath)} {
		f.Add(seed, uint16(0))
	}
	f.Add("/run/x.sock", uint16(1))
	f.Fuzz(func(t *testing.T, addr string, port uint16) {
		if checkAddress(transport.Address{Addr: addr, Port: port}) != nil {
			return
		}
		if port != 0 || !path.IsAbs(addr) || len(addr) > 107 || strings.Contains(addr, "\x00") {
			t.Fatalf("%q, port %d, is accepted", addr, port)
		}
	})
}
