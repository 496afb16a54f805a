// SPDX-License-Identifier: GPL-3.0-or-later

package nbd

import "encoding/binary"

// SimpleReplySize is the length of a simple reply's header in bytes.
const SimpleReplySize = 16

// SimpleReply is the header of a simple reply ("Simple reply message"). The
// data of a successful CmdRead follows it on the wire.
type SimpleReply struct {
	Errno  Errno // 0 for success
	Cookie uint64
}

// AppendSimpleReply appends a simple reply's header to dst.
func AppendSimpleReply(dst []byte, errno Errno, cookie uint64) []byte {
	dst = binary.BigEndian.AppendUint32(dst, MagicSimpleReply)
	dst = binary.BigEndian.AppendUint32(dst, uint32(errno))
	return binary.BigEndian.AppendUint64(dst, cookie)
}

// DecodeSimpleReply decodes the first SimpleReplySize bytes of b. The error is
// ErrShort or ErrMagic.
func DecodeSimpleReply(b []byte) (SimpleReply, error) {
	if len(b) < SimpleReplySize {
		return SimpleReply{}, ErrShort
	}
	b = b[:SimpleReplySize]
	if binary.BigEndian.Uint32(b) != MagicSimpleReply {
		return SimpleReply{}, ErrMagic
	}
	return SimpleReply{
		Errno:  Errno(binary.BigEndian.Uint32(b[4:])),
		Cookie: binary.BigEndian.Uint64(b[8:]),
	}, nil
}
