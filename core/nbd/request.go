// SPDX-License-Identifier: GPL-3.0-or-later

package nbd

import "encoding/binary"

// RequestSize is the length of a request's header in bytes.
const RequestSize = 28

// Request is the header of a compact request ("Request message"). The payload
// of a CmdWrite, Length bytes, follows it on the wire.
type Request struct {
	Flags   CommandFlags
	Command Command
	Cookie  uint64 // the client's own; the reply repeats it
	Offset  uint64 // in bytes
	Length  uint32 // in bytes
}

// Contains reports whether length bytes at offset lie inside the request's
// range; what a server says about any other bytes is no answer to it.
func (r *Request) Contains(offset, length uint64) bool {
	return offset >= r.Offset &&
		length <= uint64(r.Length) &&
		offset-r.Offset <= uint64(r.Length)-length
}

// DecodeRequest decodes the first RequestSize bytes of b. The error is ErrShort
// or ErrMagic; with ErrMagic all fields are filled all the same, so that an
// error reply can be tried before the connection is closed.
func DecodeRequest(b []byte) (Request, error) {
	if len(b) < RequestSize {
		return Request{}, ErrShort
	}
	b = b[:RequestSize]
	r := Request{
		Flags:   CommandFlags(binary.BigEndian.Uint16(b[4:])),
		Command: Command(binary.BigEndian.Uint16(b[6:])),
		Cookie:  binary.BigEndian.Uint64(b[8:]),
		Offset:  binary.BigEndian.Uint64(b[16:]),
		Length:  binary.BigEndian.Uint32(b[24:]),
	}
	if binary.BigEndian.Uint32(b) != MagicRequest {
		return r, ErrMagic
	}
	return r, nil
}

// AppendRequest appends the request's header to dst.
func AppendRequest(dst []byte, r Request) []byte {
	dst = binary.BigEndian.AppendUint32(dst, MagicRequest)
	dst = binary.BigEndian.AppendUint16(dst, uint16(r.Flags))
	dst = binary.BigEndian.AppendUint16(dst, uint16(r.Command))
	dst = binary.BigEndian.AppendUint64(dst, r.Cookie)
	dst = binary.BigEndian.AppendUint64(dst, r.Offset)
	return binary.BigEndian.AppendUint32(dst, r.Length)
}
