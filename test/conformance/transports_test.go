// SPDX-License-Identifier: GPL-3.0-or-later

package conformance

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/flexnbd/flexnbd/sdk/transport"
	"github.com/flexnbd/flexnbd/sdk/transporttest"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

func TestTCPTransport(t *testing.T) {
	p := start(t, wire.KindTransport, "flexnbd-transport-tcp")
	transporttest.Run(t, func(tb testing.TB) transporttest.Subject {
		return transporttest.Subject{
			Transport:    p.Transport(),
			Listen:       transport.Address{Addr: "127.0.0.1"},
			PeerAddress:  transporttest.LocalAddress,
			Bind:         transport.Address{Addr: "127.0.0.2"},
			Unresponsive: transporttest.UnresponsiveTCP(tb),
			PIDs:         []int{p.PID()},
		}
	})
}

func TestUnixTransport(t *testing.T) {
	p := start(t, wire.KindTransport, "flexnbd-transport-unix")
	transporttest.Run(t, func(tb testing.TB) transporttest.Subject {
		dir, err := os.MkdirTemp("", "fnbd") // short enough for a socket
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { _ = os.RemoveAll(dir) })
		return transporttest.Subject{
			Transport:   p.Transport(),
			Listen:      transport.Address{Addr: filepath.Join(dir, "sock")},
			PeerAddress: func(dialled net.Conn) string { return dialled.RemoteAddr().String() },
			PIDs:        []int{p.PID()},
		}
	})
}
