// SPDX-License-Identifier: GPL-3.0-or-later

// Package acl says who may connect.
//
//	list, err := acl.Parse([]string{"10.0.0.0/8", "::1", "uid:qemu"}, defaultDeny)
//	guard := acl.NewGuard(list)
//	if !guard.Allows(conn.Peer) { ... }
//	err = guard.Replace([]string{"gid:1000"}) // and what else it says is the same
//
// # Entries
//
//	192.0.2.1, fd00::1          one address
//	10.0.0.0/8, fd00::/8        a network
//	uid:1000, uid:alice         a local user
//	gid:1000, gid:kvm           a local group
//
// Each lets in whom it names, and nobody is kept out by one: a list lets in whoever
// one of its entries does. An empty list lets in everybody, or nobody, as its
// maker says.
//
// Addresses are for peers on the network, whatever the transport; users and groups
// are for those on a local socket, of whom the kernel says who they are. So a list
// of addresses lets in no local peer, and a list of users none on the network.
// Root is a user like any other.
//
// # Users and groups
//
// They are the effective ones of the process that connected, at that time. The
// group is that one alone: a process's supplementary groups do not count, so that
// gid:kvm lets in what runs with kvm as its group, and not every member of kvm.
// For those, use the mode and group of the socket's file.
//
// Names are looked up once, when an entry is read, and the number is kept: to
// rename a user changes no list. Digits alone are a number, even where somebody is
// called so. A binary that was built without cgo knows what /etc/passwd and
// /etc/group say, and no directory service. User 65534 (nobody) is also whom the
// kernel shows for processes in user namespaces that have no number outside.
//
// What this package does not do: keep connections, so it cannot end those that a
// new list no longer allows. It does no input or output but for looking up names.
package acl
