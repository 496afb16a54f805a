// SPDX-License-Identifier: GPL-3.0-or-later

package mirror

import (
	"bytes"
	"encoding/binary"
)

// segment is a part of a piece: data, or zeroes.
type segment struct {
	start, end int // within the piece
	zero       bool
}

// segments are blocks of zeroBlock bytes, but for the piece's end.
const zeroBlock = 4 << 10

// segments appends to dst the parts of p, in order. Zeroes that are shorter than
// least, and that have data on a side, count as data: a request of their own would
// cost more than they do.
func segments(dst []segment, p []byte, least int) []segment {
	for at := 0; at < len(p); {
		end := at + zeroBlock
		zero := isZero(p[at:min(end, len(p))])
		for end < len(p) && isZero(p[end:min(end+zeroBlock, len(p))]) == zero {
			end += zeroBlock
		}
		end = min(end, len(p))
		whole := at == 0 && end == len(p)
		dst = join(dst, segment{at, end, zero && (whole || end-at >= least)})
		at = end
	}
	return dst
}

// join appends s, or makes the last segment longer where both are data.
func join(dst []segment, s segment) []segment {
	if n := len(dst); n > 0 && dst[n-1].zero == s.zero {
		dst[n-1].end = s.end
		return dst
	}
	return append(dst, s)
}

// noBytes is never written to.
var noBytes [zeroBlock]byte

// isZero says whether p, at most zeroBlock, is zeroes. Data mostly shows in its first
// bytes.
func isZero(p []byte) bool {
	if len(p) >= 8 && binary.LittleEndian.Uint64(p) != 0 {
		return false
	}
	return bytes.Equal(p, noBytes[:len(p)])
}
