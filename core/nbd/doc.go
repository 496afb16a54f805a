// SPDX-License-Identifier: GPL-3.0-or-later

// Package nbd is the NBD wire, for both roles: the protocol's numbers under
// their own names, and functions that turn messages into bytes and back.
//
// A server sends [AppendGreeting], reads options with [ReadOption], takes their
// data apart with the Parse functions and answers with [AppendOptionReply]. In
// the transmission phase it decodes [RequestSize] bytes with [DecodeRequest] and
// answers with [AppendSimpleReply] or with the chunks of a structured reply. A
// client uses the other half of each pair. [ErrnoOf] is the one place where a
// Go error becomes a number that a client may see.
//
// Append functions append to a slice and return it, as append does, so that
// many replies can share one buffer and one system call. Decode functions take
// fixed-size headers and keep nothing of the slice they are given; Parse
// functions take the variable data of an option and copy what they return.
// Neither kind trusts a byte: a length is compared with the bytes that are
// there before it is used, and strings obey the protocol's limits.
//
// What the package does not do: it starts no goroutine, opens nothing, sets no
// deadline, and keeps no state between calls. Which option is allowed when, and
// whether a request fits an export, is for whoever holds that state.
//
// The protocol's text is doc/proto.md of the NetworkBlockDevice project; names
// of sections in the comments are its headings. All numbers on the wire are
// big-endian. The constants lose the NBD prefix and keep the rest: NBD_OPT_GO
// is [OptGo].
package nbd
