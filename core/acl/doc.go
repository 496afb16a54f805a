// SPDX-License-Identifier: GPL-3.0-or-later

// Package acl says who may connect.
//
//	list, err := acl.Parse([]string{"10.0.0.0/8", "::1"}, defaultDeny)
//	if !list.Allows(conn.Peer) { ... }
//
// A List is immutable; replacing one is for whoever holds it. It knows addresses
// only and keeps no connections.
package acl
