// SPDX-License-Identifier: GPL-3.0-or-later

package nbd

import "encoding/binary"

// ParseExportName returns the name in the data of OptExportName. The empty name
// means the default export. The error wraps ErrMalformed.
func ParseExportName(data []byte) (string, error) {
	return parseString("the export's name", data)
}

// AppendInfoRequest appends the data of OptInfo and OptGo to dst. The name has
// to pass [CheckString].
func AppendInfoRequest(dst []byte, name string, infos ...InfoType) []byte {
	dst = appendString(dst, name)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(infos)))
	for _, i := range infos {
		dst = binary.BigEndian.AppendUint16(dst, uint16(i))
	}
	return dst
}

// ParseInfoRequest takes the data of OptInfo or OptGo apart. The information
// types may hold some that are unknown, which a server ignores. The error wraps
// ErrMalformed and is answered with RepErrInvalid.
func ParseInfoRequest(data []byte) (name string, infos []InfoType, err error) {
	if len(data) < 6 {
		return "", nil, malformed("the request is %d bytes long, it needs at least 6", len(data))
	}
	nameLen := binary.BigEndian.Uint32(data)
	if uint64(nameLen) > uint64(len(data)-6) {
		return "", nil, malformed("the export's name has %d bytes, the request has room for %d", nameLen, len(data)-6)
	}
	if name, err = parseString("the export's name", data[4:4+nameLen]); err != nil {
		return "", nil, err
	}
	rest := data[4+nameLen:]
	count := int(binary.BigEndian.Uint16(rest))
	rest = rest[2:]
	if len(rest) != 2*count {
		return "", nil, malformed("%d information requests need %d bytes, there are %d", count, 2*count, len(rest))
	}
	for ; len(rest) > 0; rest = rest[2:] {
		infos = append(infos, InfoType(binary.BigEndian.Uint16(rest)))
	}
	return name, infos, nil
}

// AppendMetaContextRequest appends the data of OptListMetaContext and
// OptSetMetaContext to dst. The strings have to pass [CheckString].
func AppendMetaContextRequest(dst []byte, export string, queries ...string) []byte {
	dst = appendString(dst, export)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(queries)))
	for _, q := range queries {
		dst = appendString(dst, q)
	}
	return dst
}

// ParseMetaContextRequest takes the data of OptListMetaContext or
// OptSetMetaContext apart. Without queries, the former means all contexts and
// the latter none. The error wraps ErrMalformed and is answered with
// RepErrInvalid.
func ParseMetaContextRequest(data []byte) (export string, queries []string, err error) {
	export, rest, err := cutString("the export's name", data)
	if err != nil {
		return "", nil, err
	}
	if len(rest) < 4 {
		return "", nil, malformed("the number of queries is missing")
	}
	count := binary.BigEndian.Uint32(rest)
	rest = rest[4:]
	if uint64(count) > uint64(len(rest)/4) {
		return "", nil, malformed("%d queries do not fit into %d bytes", count, len(rest))
	}
	for range count {
		var q string
		if q, rest, err = cutString("a query", rest); err != nil {
			return "", nil, err
		}
		queries = append(queries, q)
	}
	if len(rest) > 0 {
		return "", nil, malformed("%d bytes follow the last query", len(rest))
	}
	return export, queries, nil
}

// appendString appends a string behind its 32-bit length.
func appendString(dst []byte, s string) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(s)))
	return append(dst, s...)
}

// cutString takes a string behind a 32-bit length off the front of b.
func cutString(what string, b []byte) (s string, rest []byte, err error) {
	if len(b) < 4 {
		return "", nil, malformed("the length of %s is missing", what)
	}
	n := binary.BigEndian.Uint32(b)
	b = b[4:]
	if uint64(n) > uint64(len(b)) {
		return "", nil, malformed("%s has %d bytes, there is room for %d", what, n, len(b))
	}
	s, err = parseString(what, b[:n])
	return s, b[n:], err
}
