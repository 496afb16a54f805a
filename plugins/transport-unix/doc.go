// SPDX-License-Identifier: GPL-3.0-or-later

// Package unixsocket is the stock transport for clients on the same machine: NBD
// over Unix stream sockets.
//
// A plugin's main hands [New] to the SDK; nothing else in here needs to be
// known. To use the transport in process:
//
//	listener, err := unixsocket.New().Listen(ctx, transport.Address{Addr: "/run/disk.sock"})
//	...
//	conn, err := listener.Accept(ctx) // conn.Socket is a *net.UnixConn
//
// # Addresses
//
// An address is the path of a socket, from the root, and at most 107 bytes long.
// It has no port. A relative path is refused: a plugin runs in a directory of its
// own, so whoever asks a person for a path makes it absolute first. A name that
// begins with @ ("abstract") is refused too: such a socket has no mode, and every
// process of the machine could open it.
//
// A socket that a killed server left behind is replaced. One that a process has
// open is an error, and so is anything else of that name: see package
// socketfile.
//
// # Who may connect
//
// The kernel asks for the right to write to the socket, and to pass through the
// directories above it. The socket's mode is 0660 from the moment it exists,
// whatever the umask: the server's user, its group, and root. So a server that
// runs as root with group root lets nobody else in. To let qemu's user in, run
// the server with a group that qemu is in (Group= in systemd's unit), or put the
// socket in a directory that has that group and the setgid bit, from which it
// takes the group:
//
//	install -d -m 2750 -g kvm /run/flexnbd
//
// The access list does the finer work. It judges a peer by what the kernel says
// about the process that connected (SO_PEERCRED): its effective user and group
// when it did. A socket that a process has handed on keeps the identity of the
// process that connected, and a process in a user namespace that the server's
// does not map comes as the overflow user, 65534.
//
// A peer's address is the listener's path. Clients may give their sockets names,
// but those are of their own choice and so say nothing.
//
// # Waiting
//
// Dial waits while the server's queue of connections is full, until its context
// ends. Accept waits out a shortage of descriptors, and warns: see package
// netlistener.
//
// # What it does not do
//
// No access list, no byte of NBD, and no time limit of its own.
package unixsocket
