// SPDX-License-Identifier: GPL-3.0-or-later

package tcp

import (
	"context"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/flexnbd/flexnbd/sdk/netlistener"
	"github.com/flexnbd/flexnbd/sdk/transport"
)

// keepAlive is what every accepted and every dialled socket gets.
var keepAlive = net.KeepAliveConfig{
	Enable:   true,
	Idle:     30 * time.Second,
	Interval: 10 * time.Second,
	Count:    3,
}

// Transport is TCP. The zero value is ready; it holds no state, and all its
// methods may be called from many goroutines.
type Transport struct {
	// Log takes warnings, of which there is one kind: connections cannot be
	// accepted for want of descriptors or memory. Nil means hclog.Default().
	Log hclog.Logger
}

// New returns a TCP transport that logs to [hclog.Default].
func New() transport.Transport {
	return &Transport{}
}

// Listen listens at addr, where port 0 means any that is free. Errors wrap the
// kernel's errno: EADDRINUSE, EADDRNOTAVAIL, EACCES.
func (t *Transport) Listen(ctx context.Context, addr transport.Address) (transport.Listener, error) {
	socket, err := listen(ctx, addr)
	if err != nil {
		return nil, err
	}
	at := socket.Addr().(*net.TCPAddr).AddrPort()
	return netlistener.New(socket, netlistener.Config{
		Address: transport.Address{Addr: at.Addr().String(), Port: at.Port()},
		Peer:    peer,
		Log:     t.logger,
	}), nil
}

func listen(ctx context.Context, addr transport.Address) (*net.TCPListener, error) {
	ip, err := listenIP(ctx, addr)
	if err != nil {
		return nil, err
	}
	config := net.ListenConfig{KeepAliveConfig: keepAlive}
	config.SetMultipathTCP(false)
	where := netip.AddrPortFrom(ip, addr.Port)
	socket, err := config.Listen(ctx, listenNetwork(ip), where.String())
	if err != nil {
		return nil, explainListen(ctx, addr, ip, err)
	}
	return socket.(*net.TCPListener), nil
}

// listenNetwork keeps 0.0.0.0 to IPv4: under the name "tcp" Go would open it
// for IPv6 as well. "::" is wanted for both, and there "tcp" does it: Go
// switches IPV6_V6ONLY off whatever net.ipv6.bindv6only says, and listens on
// IPv4 alone where the machine has no IPv6.
func listenNetwork(ip netip.Addr) string {
	if ip.Is4() {
		return "tcp4"
	}
	return "tcp"
}

// Dial connects to addr. Bind, if it is not the zero Address, is the local
// address to connect from; its port is usually 0, since a fixed port cannot be
// used again to reach the same address until the kernel has forgotten the last
// connection. Errors name addr, and bind if there is one, and wrap the kernel's
// errno or the context's error.
func (t *Transport) Dial(ctx context.Context, addr, bind transport.Address) (transport.Conn, error) {
	host, err := parseHost(addr.Addr)
	if err == nil && addr.Port == 0 {
		err = errPortZero
	}
	if err != nil {
		return transport.Conn{}, dialError(addr, bind, err)
	}
	dialer := net.Dialer{KeepAliveConfig: keepAlive}
	dialer.SetMultipathTCP(false)
	if bind != (transport.Address{}) {
		source, err := bindIP(ctx, bind, host)
		if err != nil {
			return transport.Conn{}, dialError(addr, bind, err)
		}
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(source, bind.Port))
	}
	target := net.JoinHostPort(host.String(), strconv.Itoa(int(addr.Port)))
	socket, err := dialer.DialContext(ctx, "tcp", target)
	if err != nil {
		return transport.Conn{}, explainDial(ctx, addr, bind, err)
	}
	return transport.Conn{Socket: socket, Peer: peer(socket)}, nil
}

func (t *Transport) logger() hclog.Logger {
	if t.Log != nil {
		return t.Log
	}
	return hclog.Default()
}

// peer names the peer by its AddrPort, because TCPAddr.String would hide that an
// IPv4 peer came in over an IPv6 socket.
func peer(socket net.Conn) transport.Peer {
	remote := socket.RemoteAddr().(*net.TCPAddr)
	return transport.Peer{Network: "tcp", Address: remote.AddrPort().String()}
}
