// SPDX-License-Identifier: GPL-3.0-or-later

package nbd

import "encoding/binary"

// Descriptor is one extent of a block status chunk: Length bytes, at least 1,
// following the extent before it, have Status, whose bits the metadata context
// defines ([StateHole] and [StateZero] for base:allocation).
type Descriptor struct {
	Length uint32
	Status uint32
}

// AppendBlockStatus appends a whole ChunkBlockStatus for one metadata context.
// There have to be 1 to [MaxExtents] extents, none of them empty.
func AppendBlockStatus(dst []byte, flags ChunkFlags, cookie uint64, contextID uint32, extents []Descriptor) []byte {
	length := uint32(blockStatusHeaderSize + descriptorSize*len(extents))
	dst = AppendChunkHeader(dst, flags, ChunkBlockStatus, cookie, length)
	dst = binary.BigEndian.AppendUint32(dst, contextID)
	for _, e := range extents {
		dst = binary.BigEndian.AppendUint32(dst, e.Length)
		dst = binary.BigEndian.AppendUint32(dst, e.Status)
	}
	return dst
}

// DecodeBlockStatus appends the extents of a ChunkBlockStatus to dst and
// returns them with the context they belong to. b holds the chunk's payload.
func DecodeBlockStatus(dst []Descriptor, h ChunkHeader, b []byte) (contextID uint32, extents []Descriptor, err error) {
	p, err := h.payloadOf(b, ChunkBlockStatus)
	if err != nil {
		return 0, dst, err
	}
	if err := h.check(); err != nil {
		return 0, dst, err
	}
	contextID, extents = binary.BigEndian.Uint32(p), dst
	for p = p[blockStatusHeaderSize:]; len(p) > 0; p = p[descriptorSize:] {
		d := Descriptor{Length: binary.BigEndian.Uint32(p), Status: binary.BigEndian.Uint32(p[4:])}
		if d.Length == 0 {
			return 0, dst, malformed("a BLOCK_STATUS chunk has an empty extent")
		}
		extents = append(extents, d)
	}
	return contextID, extents, nil
}
