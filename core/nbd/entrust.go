// SPDX-License-Identifier: GPL-3.0-or-later

package nbd

// flexnbd 0.x reads a request's flags and command as one number of 32 bits, and
// hands a disk over with the number 65536, ENTRUST. In today's fields that is a
// READ of no bytes at offset 0 with FUA, which means nothing elsewhere. It goes
// over connections with the oldstyle handshake only, and is answered with a
// simple reply; a DISC has to follow.
const (
	CmdEntrust      = CmdRead
	CmdFlagsEntrust = CmdFlagFUA
)

// EntrustRequest returns the request ENTRUST.
func EntrustRequest(cookie uint64) Request {
	return Request{Flags: CmdFlagsEntrust, Command: CmdEntrust, Cookie: cookie}
}

// IsEntrust reports whether r is ENTRUST, if it came over a connection with the
// oldstyle handshake.
func IsEntrust(r Request) bool { return r == EntrustRequest(r.Cookie) }
