// SPDX-License-Identifier: GPL-3.0-or-later

package nbd

import (
	"bytes"
	"encoding/binary"
)

// GreetingSize and ClientFlagsSize are the lengths of the two messages that
// open the handshake, in bytes ("Newstyle negotiation").
const (
	GreetingSize    = 18
	ClientFlagsSize = 4
)

// AppendGreeting appends a newstyle server's greeting to dst.
func AppendGreeting(dst []byte, flags HandshakeFlags) []byte {
	dst = binary.BigEndian.AppendUint64(dst, MagicInit)
	dst = binary.BigEndian.AppendUint64(dst, MagicOption)
	return binary.BigEndian.AppendUint16(dst, uint16(flags))
}

// DecodeGreeting decodes what a server said first. It may be called with fewer
// than GreetingSize bytes, as they come in: ErrShort means that they can still
// become a greeting, ErrMagic that this is no NBD server, ErrOldstyle that it
// is one of the old kind: see [DecodeOldstyleGreeting].
func DecodeGreeting(b []byte) (HandshakeFlags, error) {
	var first, newstyle, oldstyle [8]byte
	binary.BigEndian.PutUint64(first[:], MagicInit)
	binary.BigEndian.PutUint64(newstyle[:], MagicOption)
	binary.BigEndian.PutUint64(oldstyle[:], MagicOldstyle)

	init, rest := b[:min(len(b), 8)], b[min(len(b), 8):]
	style := rest[:min(len(rest), 8)]
	switch {
	case !bytes.HasPrefix(first[:], init):
		return 0, ErrMagic
	case bytes.Equal(style, oldstyle[:]):
		return 0, ErrOldstyle
	case !bytes.HasPrefix(newstyle[:], style) && !bytes.HasPrefix(oldstyle[:], style):
		return 0, ErrMagic
	case len(b) < GreetingSize:
		return 0, ErrShort
	}
	return HandshakeFlags(binary.BigEndian.Uint16(b[16:])), nil
}

// AppendClientFlags appends a client's answer to the greeting to dst.
func AppendClientFlags(dst []byte, flags ClientFlags) []byte {
	return binary.BigEndian.AppendUint32(dst, uint32(flags))
}

// DecodeClientFlags decodes the first ClientFlagsSize bytes of b and compares
// them with what the server offered. The error is ErrShort, or ErrMalformed for
// a flag that is unknown or was not offered: then the server has to drop the
// connection ("Client flags").
func DecodeClientFlags(b []byte, offered HandshakeFlags) (ClientFlags, error) {
	if len(b) < ClientFlagsSize {
		return 0, ErrShort
	}
	flags := ClientFlags(binary.BigEndian.Uint32(b))
	if extra := flags &^ ClientFlags(offered&(FlagFixedNewstyle|FlagNoZeroes)); extra != 0 {
		return flags, malformed("client flags 0x%x are unknown or were not offered", uint32(extra))
	}
	return flags, nil
}
