// SPDX-License-Identifier: GPL-3.0-or-later

package nbd

import "encoding/binary"

// AppendErrorChunk appends a whole ChunkError. errno must not be 0. msg is
// shown to people; beyond [MaxString] bytes it is cut.
func AppendErrorChunk(dst []byte, flags ChunkFlags, cookie uint64, errno Errno, msg string) []byte {
	msg = clipMessage(msg)
	dst = AppendChunkHeader(dst, flags, ChunkError, cookie, uint32(errorHeaderSize+len(msg)))
	return appendErrorFields(dst, errno, msg)
}

// AppendErrorOffsetChunk appends a whole ChunkErrorOffset, which says at which
// offset of the export, inside the request, it went wrong.
func AppendErrorOffsetChunk(dst []byte, flags ChunkFlags, cookie uint64, errno Errno, msg string, offset uint64) []byte {
	msg = clipMessage(msg)
	dst = AppendChunkHeader(dst, flags, ChunkErrorOffset, cookie, uint32(errorHeaderSize+len(msg)+8))
	dst = appendErrorFields(dst, errno, msg)
	return binary.BigEndian.AppendUint64(dst, offset)
}

func appendErrorFields(dst []byte, errno Errno, msg string) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(errno))
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(msg)))
	return append(dst, msg...)
}

// ErrorChunk is what an error chunk says.
type ErrorChunk struct {
	Errno   Errno  // never 0
	Message string // for people; any bytes, so quote it before printing
	Offset  uint64 // only of a ChunkErrorOffset
}

// DecodeError decodes the payload of any chunk whose type is an error, also of
// types that are not known: they all begin alike, and what follows the fields
// of a ChunkError is ignored.
func DecodeError(h ChunkHeader, b []byte) (ErrorChunk, error) {
	if !h.Type.IsError() {
		return ErrorChunk{}, malformed("a %v chunk stands where an error was expected", h.Type)
	}
	if err := h.check(); err != nil {
		return ErrorChunk{}, err
	}
	p, err := h.payloadOf(b, h.Type)
	if err != nil {
		return ErrorChunk{}, err
	}
	e := ErrorChunk{Errno: Errno(binary.BigEndian.Uint32(p))}
	if e.Errno == 0 {
		return ErrorChunk{}, malformed("an error chunk has no error in it")
	}
	n, room := int(binary.BigEndian.Uint16(p[4:])), len(p)-errorHeaderSize
	if h.Type == ChunkErrorOffset {
		room -= 8
	}
	if n > room || n > MaxString {
		return ErrorChunk{}, malformed("the text of an error chunk is %d bytes long, there is room for %d", n, min(room, MaxString))
	}
	p = p[errorHeaderSize:]
	e.Message = string(p[:n])
	if h.Type == ChunkErrorOffset {
		e.Offset = binary.BigEndian.Uint64(p[n:])
	}
	return e, nil
}
