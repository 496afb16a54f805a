// SPDX-License-Identifier: GPL-3.0-or-later

package tcp

import (
	"net"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/sdk/transport"
	"github.com/flexnbd/flexnbd/sdk/transporttest"
	"github.com/flexnbd/flexnbd/sdk/wire/wiretest"
)

func TestTransportKeepsContractOverTheWire(t *testing.T) {
	unresponsive := transporttest.UnresponsiveTCP(t)
	transporttest.Run(t, func(tb testing.TB) transporttest.Subject {
		return transporttest.Subject{
			Transport:    wiretest.Transport(tb, New()),
			Listen:       transport.Address{Addr: "127.0.0.1"},
			PeerAddress:  transporttest.LocalAddress,
			Bind:         transport.Address{Addr: "127.0.0.2"},
			Unresponsive: unresponsive,
		}
	})
}

func TestSocketOptionsArriveOverTheWire(t *testing.T) {
	remote := wiretest.Transport(t, New())
	l, err := remote.Listen(t.Context(), transport.Address{Addr: "127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	dialled, err := remote.Dial(t.Context(), l.Address(), transport.Address{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = dialled.Socket.Close() }()
	accepted, err := l.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = accepted.Socket.Close() }()
	for name, socket := range map[string]net.Conn{"dialled": dialled.Socket, "accepted": accepted.Socket} {
		raw, err := socket.(syscall.Conn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		for option, want := range map[[2]int]int{
			{unix.IPPROTO_TCP, unix.TCP_NODELAY}:   1,
			{unix.SOL_SOCKET, unix.SO_KEEPALIVE}:   1,
			{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE}:  30,
			{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL}: 10,
			{unix.IPPROTO_TCP, unix.TCP_KEEPCNT}:   3,
		} {
			err := raw.Control(func(fd uintptr) {
				if got, err := unix.GetsockoptInt(int(fd), option[0], option[1]); got != want || err != nil {
					t.Errorf("%s socket: option %v is %d, %v, want %d", name, option, got, err, want)
				}
			})
			if err != nil {
				t.Error(err)
			}
		}
	}
}
