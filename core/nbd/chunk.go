// SPDX-License-Identifier: GPL-3.0-or-later

package nbd

import (
	"encoding/binary"
	"strconv"
)

// ChunkType says what a chunk of a structured reply holds ("Structured reply
// types").
type ChunkType uint16

// The chunk types. Errors have bit 15 set.
const (
	ChunkNone           ChunkType = 0 // nothing; always the last of its reply
	ChunkOffsetData     ChunkType = 1
	ChunkOffsetHole     ChunkType = 2 // a range that reads as zeroes
	ChunkBlockStatus    ChunkType = 5
	ChunkBlockStatusExt ChunkType = 6 // only with extended headers
	ChunkError          ChunkType = 1<<15 + 1
	ChunkErrorOffset    ChunkType = 1<<15 + 2
)

// IsError reports whether the chunk says that its request failed; so does every
// type with bit 15 set, known or not.
func (t ChunkType) IsError() bool { return t&(1<<15) != 0 }

// String returns the protocol's name without its prefix.
func (t ChunkType) String() string {
	switch t {
	case ChunkNone:
		return "NONE"
	case ChunkOffsetData:
		return "OFFSET_DATA"
	case ChunkOffsetHole:
		return "OFFSET_HOLE"
	case ChunkBlockStatus:
		return "BLOCK_STATUS"
	case ChunkBlockStatusExt:
		return "BLOCK_STATUS_EXT"
	case ChunkError:
		return "ERROR"
	case ChunkErrorOffset:
		return "ERROR_OFFSET"
	}
	return "chunk 0x" + strconv.FormatUint(uint64(t), 16)
}

// ChunkFlags are the reply flags of a chunk ("Structured and extended header
// reply flags").
type ChunkFlags uint16

// ChunkFlagDone marks the last chunk of a reply. A client ignores other flags.
const ChunkFlagDone ChunkFlags = 1 << 0

// Sizes in a structured reply, in bytes, and the most extents that one chunk
// may describe.
const (
	ChunkHeaderSize       = 20
	OffsetDataSize        = 8  // the offset in front of a ChunkOffsetData's data
	OffsetHoleSize        = 12 // the whole payload of a ChunkOffsetHole
	MaxExtents            = 1 << 20
	blockStatusHeaderSize = 4
	descriptorSize        = 8
	errorHeaderSize       = 6
)

// MaxErrorPayload is the longest payload of an error chunk that a client needs
// to accept, in bytes: the fixed fields, the longest text, and room for the
// fields of types to come.
const MaxErrorPayload = errorHeaderSize + MaxString + 64

// ChunkHeader is the header of one chunk ("Structured reply chunk message").
// Length bytes of payload follow it on the wire.
type ChunkHeader struct {
	Flags  ChunkFlags
	Type   ChunkType
	Cookie uint64
	Length uint32
}

// AppendChunkHeader appends a chunk's header to dst.
func AppendChunkHeader(dst []byte, flags ChunkFlags, typ ChunkType, cookie uint64, length uint32) []byte {
	dst = binary.BigEndian.AppendUint32(dst, MagicStructuredReply)
	dst = binary.BigEndian.AppendUint16(dst, uint16(flags))
	dst = binary.BigEndian.AppendUint16(dst, uint16(typ))
	dst = binary.BigEndian.AppendUint64(dst, cookie)
	return binary.BigEndian.AppendUint32(dst, length)
}

// DecodeChunkHeader decodes the first ChunkHeaderSize bytes of b. The error is
// ErrShort or ErrMagic, or ErrMalformed where the length is impossible for the
// type. Unknown types are accepted: a client has to end the connection over
// them, unless they are errors.
func DecodeChunkHeader(b []byte) (ChunkHeader, error) {
	if len(b) < ChunkHeaderSize {
		return ChunkHeader{}, ErrShort
	}
	b = b[:ChunkHeaderSize]
	if binary.BigEndian.Uint32(b) != MagicStructuredReply {
		return ChunkHeader{}, ErrMagic
	}
	h := ChunkHeader{
		Flags:  ChunkFlags(binary.BigEndian.Uint16(b[4:])),
		Type:   ChunkType(binary.BigEndian.Uint16(b[6:])),
		Cookie: binary.BigEndian.Uint64(b[8:]),
		Length: binary.BigEndian.Uint32(b[16:]),
	}
	return h, h.check()
}

// check compares the length with what the type allows.
func (h *ChunkHeader) check() error {
	ok := true
	switch h.Type {
	case ChunkNone:
		if h.Flags&ChunkFlagDone == 0 {
			return malformed("a NONE chunk is not marked as the last of its reply")
		}
		ok = h.Length == 0
	case ChunkOffsetData:
		ok = h.Length > OffsetDataSize
	case ChunkOffsetHole:
		ok = h.Length == OffsetHoleSize
	case ChunkBlockStatus:
		ok = h.Length >= blockStatusHeaderSize+descriptorSize &&
			h.Length <= blockStatusHeaderSize+descriptorSize*MaxExtents &&
			(h.Length-blockStatusHeaderSize)%descriptorSize == 0
	case ChunkErrorOffset:
		ok = h.Length >= errorHeaderSize+8 && h.Length <= MaxErrorPayload
	default:
		if h.Type.IsError() {
			ok = h.Length >= errorHeaderSize && h.Length <= MaxErrorPayload
		}
	}
	if !ok {
		return malformed("a %v chunk cannot be %d bytes long", h.Type, h.Length)
	}
	return nil
}

// payloadOf returns the chunk's payload from the front of b.
func (h *ChunkHeader) payloadOf(b []byte, want ...ChunkType) ([]byte, error) {
	for _, t := range want {
		if h.Type == t {
			if uint64(len(b)) < uint64(h.Length) {
				return nil, ErrShort
			}
			return b[:h.Length], nil
		}
	}
	return nil, malformed("a %v chunk stands where %v was expected", h.Type, want[0])
}

// AppendNoneChunk appends a whole ChunkNone, which ends a reply.
func AppendNoneChunk(dst []byte, cookie uint64) []byte {
	return AppendChunkHeader(dst, ChunkFlagDone, ChunkNone, cookie, 0)
}

// AppendOffsetData appends the header of a ChunkOffsetData and its offset. The
// dataLen bytes of data, at least 1 and at most 2^32 - 9, have to follow.
func AppendOffsetData(dst []byte, flags ChunkFlags, cookie, offset uint64, dataLen uint32) []byte {
	dst = AppendChunkHeader(dst, flags, ChunkOffsetData, cookie, OffsetDataSize+dataLen)
	return binary.BigEndian.AppendUint64(dst, offset)
}

// DecodeOffsetData returns the range that a ChunkOffsetData describes. b needs
// to hold only the first OffsetDataSize bytes of the payload. That the range
// lies inside the request is for [Request.Contains] to say.
func DecodeOffsetData(h ChunkHeader, b []byte) (offset uint64, length uint32, err error) {
	switch {
	case h.Type != ChunkOffsetData:
		return 0, 0, malformed("a %v chunk stands where %v was expected", h.Type, ChunkOffsetData)
	case h.Length <= OffsetDataSize:
		return 0, 0, malformed("a %v chunk cannot be %d bytes long", h.Type, h.Length)
	case len(b) < OffsetDataSize:
		return 0, 0, ErrShort
	}
	return binary.BigEndian.Uint64(b), h.Length - OffsetDataSize, nil
}

// AppendOffsetHole appends a whole ChunkOffsetHole for length bytes, at least
// 1, at offset.
func AppendOffsetHole(dst []byte, flags ChunkFlags, cookie, offset uint64, length uint32) []byte {
	dst = AppendChunkHeader(dst, flags, ChunkOffsetHole, cookie, OffsetHoleSize)
	dst = binary.BigEndian.AppendUint64(dst, offset)
	return binary.BigEndian.AppendUint32(dst, length)
}

// DecodeOffsetHole returns the range of a ChunkOffsetHole from its payload.
func DecodeOffsetHole(h ChunkHeader, b []byte) (offset uint64, length uint32, err error) {
	p, err := h.payloadOf(b, ChunkOffsetHole)
	if err != nil {
		return 0, 0, err
	}
	if len(p) != OffsetHoleSize {
		return 0, 0, malformed("a %v chunk cannot be %d bytes long", h.Type, h.Length)
	}
	offset, length = binary.BigEndian.Uint64(p), binary.BigEndian.Uint32(p[8:])
	if length == 0 {
		return 0, 0, malformed("an OFFSET_HOLE chunk describes no bytes")
	}
	return offset, length, nil
}
