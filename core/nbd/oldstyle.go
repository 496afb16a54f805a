// SPDX-License-Identifier: GPL-3.0-or-later

package nbd

import "encoding/binary"

// OldstyleGreetingSize is the length of the oldstyle greeting, which is a whole
// handshake in itself ("Oldstyle negotiation"): two magic numbers, the size,
// 32 bits of flags, 124 zeroes.
const OldstyleGreetingSize = 152

// OldstyleFlags are exactly the flags that an oldstyle server of this project
// advertises.
const OldstyleFlags = FlagHasFlags | FlagSendFlush | FlagSendFUA

// AppendOldstyleGreeting appends an oldstyle server's greeting to dst: the
// export's size in bytes and its flags, which have a field of 32 bits here.
func AppendOldstyleGreeting(dst []byte, size uint64, flags TransmissionFlags) []byte {
	dst = binary.BigEndian.AppendUint64(dst, MagicInit)
	dst = binary.BigEndian.AppendUint64(dst, MagicOldstyle)
	dst = binary.BigEndian.AppendUint64(dst, size)
	dst = binary.BigEndian.AppendUint32(dst, uint32(flags))
	return append(dst, make([]byte, 124)...)
}

// DecodeOldstyleGreeting decodes the first OldstyleGreetingSize bytes of b, for
// which [DecodeGreeting] has returned ErrOldstyle. The error is ErrShort or
// ErrMagic. Flags beyond the 16 that the protocol knows, and what stands in the
// reserved bytes, are ignored.
func DecodeOldstyleGreeting(b []byte) (size uint64, flags TransmissionFlags, err error) {
	if len(b) < OldstyleGreetingSize {
		return 0, 0, ErrShort
	}
	if binary.BigEndian.Uint64(b) != MagicInit || binary.BigEndian.Uint64(b[8:]) != MagicOldstyle {
		return 0, 0, ErrMagic
	}
	return binary.BigEndian.Uint64(b[16:]), TransmissionFlags(binary.BigEndian.Uint32(b[24:])), nil
}
