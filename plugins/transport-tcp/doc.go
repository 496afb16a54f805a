// SPDX-License-Identifier: GPL-3.0-or-later

// Package tcp is the stock transport: NBD over TCP, on IPv4 and IPv6.
//
// A plugin's main hands [New] to the SDK; nothing else in here needs to be
// known. To use the transport in process:
//
//	listener, err := tcp.New().Listen(ctx, transport.Address{Addr: "::", Port: 4777})
//	...
//	conn, err := listener.Accept(ctx) // conn.Socket is a *net.TCPConn
//
// # Addresses
//
// An address is an IP literal or a host name. A link-local IPv6 address names
// its interface ("fe80::1%eth0"); IPv6 addresses take no brackets. A name that
// stands for several addresses is listened at on one of them, IPv4 first; when
// it is dialled they are tried in turn, and the error says which one failed.
// An empty address is refused, since it would open a disk to every network:
// who wants that writes it out.
//
//	0.0.0.0   every IPv4 address of the machine, and no IPv6
//	::        every IPv6 address and every IPv4 address
//
// A peer is named as the kernel names it. An IPv4 client of a listener at "::"
// is "[::ffff:192.0.2.1]:50000"; the access list in the core knows that this
// is 192.0.2.1.
//
// # Sockets
//
// Accepted and dialled sockets have TCP_NODELAY, since NBD is requests and
// replies, and keepalive after 30 s of silence, every 10 s, 3 times, so that a
// peer whose machine vanished while idle is noticed within a minute. A peer
// that vanishes with data under way is noticed by TCP's retransmissions, which
// takes up to a quarter of an hour: whoever cannot wait that long sets a limit
// of its own.
//
// Sockets are plain TCP. Go would listen with Multipath TCP; a connection that
// then uses it is another kind of socket, which the core's socket options and
// sendfile are neither tuned nor tested for.
//
// # Shortage of descriptors
//
// Accept waits until it is over, and warns: see package netlistener.
//
// # What it does not do
//
// No TLS, no access list, no byte of NBD, and no time limit of its own: a Dial
// ends when its context does, or when the kernel gives up after about two
// minutes.
package tcp
