// SPDX-License-Identifier: Apache-2.0

// Command transport is TCP, as a transport of SDK 0.1 has it.
package main

import (
	"context"
	"net"
	"strconv"

	"github.com/flexnbd/flexnbd/sdk"
	"github.com/flexnbd/flexnbd/sdk/netlistener"
	"github.com/flexnbd/flexnbd/sdk/transport"
)

func main() {
	sdk.ServeTransport(sdk.Transport{Name: "old", Version: "0.1.0", Transport: tcp{}})
}

type tcp struct{}

func (tcp) Listen(ctx context.Context, addr transport.Address) (transport.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", join(addr))
	if err != nil {
		return nil, err
	}
	socket := l.(*net.TCPListener)
	at := socket.Addr().(*net.TCPAddr)
	return netlistener.New(socket, netlistener.Config{
		Address: transport.Address{Addr: at.IP.String(), Port: uint16(at.Port)},
		Peer:    peer,
	}), nil
}

func (tcp) Dial(ctx context.Context, addr, bind transport.Address) (transport.Conn, error) {
	var dialer net.Dialer
	if bind != (transport.Address{}) {
		local, err := net.ResolveTCPAddr("tcp", join(bind))
		if err != nil {
			return transport.Conn{}, err
		}
		dialer.LocalAddr = local
	}
	conn, err := dialer.DialContext(ctx, "tcp", join(addr))
	if err != nil {
		return transport.Conn{}, err
	}
	return transport.Conn{Socket: conn, Peer: peer(conn)}, nil
}

func join(a transport.Address) string {
	return net.JoinHostPort(a.Addr, strconv.Itoa(int(a.Port)))
}

func peer(conn net.Conn) transport.Peer {
	return transport.Peer{Network: "tcp", Address: conn.RemoteAddr().String()}
}
