// SPDX-License-Identifier: GPL-3.0-or-later

package nbd

import "encoding/binary"

// ExportNameReplySize is the length of the answer to OptExportName, and
// ExportNamePadding that of the zeroes behind it, in bytes ("Newstyle
// negotiation"). The zeroes are left out when NO_ZEROES was agreed on; no
// answer to OptGo ever has them.
const (
	ExportNameReplySize = 10
	ExportNamePadding   = 124
)

// AppendExportNameReply appends the answer to OptExportName, which has no
// header, to dst.
func AppendExportNameReply(dst []byte, size uint64, flags TransmissionFlags, noZeroes bool) []byte {
	dst = binary.BigEndian.AppendUint64(dst, size)
	dst = binary.BigEndian.AppendUint16(dst, uint16(flags))
	if noZeroes {
		return dst
	}
	return append(dst, make([]byte, ExportNamePadding)...)
}

// DecodeExportNameReply decodes the first ExportNameReplySize bytes of b. The
// error is ErrShort.
func DecodeExportNameReply(b []byte) (size uint64, flags TransmissionFlags, err error) {
	if len(b) < ExportNameReplySize {
		return 0, 0, ErrShort
	}
	return binary.BigEndian.Uint64(b), TransmissionFlags(binary.BigEndian.Uint16(b[8:])), nil
}
