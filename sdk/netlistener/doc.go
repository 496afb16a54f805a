// SPDX-License-Identifier: Apache-2.0

// Package netlistener makes a [transport.Listener] of a listening socket. Both
// stock transports use it; so can any transport that accepts from a socket of its
// own.
//
//	socket, err := net.ListenTCP("tcp", at)
//	...
//	return netlistener.New(socket, netlistener.Config{
//		Address: transport.Address{Addr: "192.0.2.1", Port: 4777},
//		Peer:    func(c net.Conn) transport.Peer { ... },
//	}), nil
//
// What it adds to a net.Listener is that each Accept has a context of its own, and
// that no connection is lost when one of them ends.
//
// # Shortage of descriptors
//
// When the process or the machine is out of descriptors or memory, Accept does
// not fail: it warns once, and tries again after 5 ms, then twice that, up to
// every second. Clients that connect meanwhile wait in the kernel's queue.
//
// What it does not do: open a socket, read a byte from a connection, or judge who
// may connect.
package netlistener
