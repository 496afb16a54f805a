// SPDX-License-Identifier: GPL-3.0-or-later

package nbd

import "encoding/binary"

// BlockSizes are the size constraints of an export, in bytes ("Size
// constraints").
type BlockSizes struct {
	// Minimum divides every offset and length. A power of two, at most 64 KiB.
	Minimum uint32
	// Preferred is what is efficient. A power of two, at least the greater of
	// Minimum and 512.
	Preferred uint32
	// MaxPayload bounds the data of one READ or WRITE; TRIM, WRITE_ZEROES and
	// others without data may be longer. At least Preferred; 2^32 - 1 means
	// that there is no fixed limit.
	MaxPayload uint32
}

// DefaultBlockSizes are what both sides assume when nothing was said.
var DefaultBlockSizes = BlockSizes{Minimum: 1, Preferred: 4096, MaxPayload: 32 << 20}

// Check returns an error that wraps ErrMalformed when the sizes break the rules
// above.
func (s BlockSizes) Check() error {
	powerOfTwo := func(n uint32) bool { return n != 0 && n&(n-1) == 0 }
	switch {
	case !powerOfTwo(s.Minimum) || s.Minimum > 64<<10:
		return malformed("a minimum block size of %d bytes is not a power of two up to 65536", s.Minimum)
	case !powerOfTwo(s.Preferred) || s.Preferred < max(s.Minimum, 512):
		return malformed("a preferred block size of %d bytes is not a power of two from %d", s.Preferred, max(s.Minimum, 512))
	case s.MaxPayload < s.Preferred:
		return malformed("a maximum payload of %d bytes is less than the preferred block size, %d", s.MaxPayload, s.Preferred)
	}
	return nil
}

// AppendInfoExport appends the data of a RepInfo that tells the export's size
// in bytes and its flags to dst. Every success of OptInfo and OptGo has one.
func AppendInfoExport(dst []byte, size uint64, flags TransmissionFlags) []byte {
	dst = binary.BigEndian.AppendUint16(dst, uint16(InfoExport))
	dst = binary.BigEndian.AppendUint64(dst, size)
	return binary.BigEndian.AppendUint16(dst, uint16(flags))
}

// AppendInfoBlockSize appends the data of a RepInfo that tells the export's
// size constraints to dst. They have to pass [BlockSizes.Check].
func AppendInfoBlockSize(dst []byte, s BlockSizes) []byte {
	dst = binary.BigEndian.AppendUint16(dst, uint16(InfoBlockSize))
	dst = binary.BigEndian.AppendUint32(dst, s.Minimum)
	dst = binary.BigEndian.AppendUint32(dst, s.Preferred)
	return binary.BigEndian.AppendUint32(dst, s.MaxPayload)
}

// AppendInfoName appends the data of a RepInfo with the export's canonical name
// to dst.
func AppendInfoName(dst []byte, name string) []byte {
	dst = binary.BigEndian.AppendUint16(dst, uint16(InfoName))
	return append(dst, name...)
}

// AppendInfoDescription appends the data of a RepInfo that describes the export
// to people to dst.
func AppendInfoDescription(dst []byte, text string) []byte {
	dst = binary.BigEndian.AppendUint16(dst, uint16(InfoDescription))
	return append(dst, text...)
}

// Info is the data of one RepInfo. Type says which of the fields are set; none
// are for types that this package does not know, which a client ignores.
type Info struct {
	Type       InfoType
	Size       uint64            // InfoExport
	Flags      TransmissionFlags // InfoExport
	Text       string            // InfoName, InfoDescription
	BlockSizes BlockSizes        // InfoBlockSize; checked
}

// ParseInfo takes the data of a RepInfo apart. The error wraps ErrMalformed.
func ParseInfo(data []byte) (Info, error) {
	if len(data) < 2 {
		return Info{}, malformed("an information reply is %d bytes long, it needs at least 2", len(data))
	}
	info := Info{Type: InfoType(binary.BigEndian.Uint16(data))}
	b := data[2:]
	var err error
	switch info.Type {
	case InfoExport:
		if len(b) != 10 {
			return Info{}, malformed("information %v is %d bytes long, it has to be 12", info.Type, len(data))
		}
		info.Size = binary.BigEndian.Uint64(b)
		info.Flags = TransmissionFlags(binary.BigEndian.Uint16(b[8:]))
	case InfoBlockSize:
		if len(b) != 12 {
			return Info{}, malformed("information %v is %d bytes long, it has to be 14", info.Type, len(data))
		}
		info.BlockSizes = BlockSizes{
			Minimum:    binary.BigEndian.Uint32(b),
			Preferred:  binary.BigEndian.Uint32(b[4:]),
			MaxPayload: binary.BigEndian.Uint32(b[8:]),
		}
		err = info.BlockSizes.Check()
	case InfoName, InfoDescription:
		info.Text, err = parseString("information "+info.Type.String(), b)
	}
	if err != nil {
		return Info{}, err
	}
	return info, nil
}

// AppendRepServer appends the data of a RepServer, one export in the answer to
// OptList, to dst. The description is for people and may be empty.
func AppendRepServer(dst []byte, name, description string) []byte {
	return append(appendString(dst, name), description...)
}

// ParseRepServer takes the data of a RepServer apart. The error wraps
// ErrMalformed.
func ParseRepServer(data []byte) (name, description string, err error) {
	name, rest, err := cutString("the export's name", data)
	if err != nil {
		return "", "", err
	}
	if description, err = parseString("the export's description", rest); err != nil {
		return "", "", err
	}
	return name, description, nil
}

// AppendMetaContext appends the data of a RepMetaContext to dst. The answer to
// OptListMetaContext has the id 0.
func AppendMetaContext(dst []byte, id uint32, name string) []byte {
	dst = binary.BigEndian.AppendUint32(dst, id)
	return append(dst, name...)
}

// ParseMetaContext takes the data of a RepMetaContext apart. The error wraps
// ErrMalformed.
func ParseMetaContext(data []byte) (id uint32, name string, err error) {
	if len(data) < 4 {
		return 0, "", malformed("a metadata context is %d bytes long, it needs at least 4", len(data))
	}
	if name, err = parseString("the metadata context's name", data[4:]); err != nil {
		return 0, "", err
	}
	return binary.BigEndian.Uint32(data), name, nil
}
