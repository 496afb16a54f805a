// SPDX-License-Identifier: GPL-3.0-or-later

package nbd

import (
	"encoding/binary"
	"errors"
	"io"
)

// Limits of the handshake. MaxOptionLength, in bytes, bounds the data of an
// option or of an option's reply that is kept in memory: an export's name and a
// dozen metadata queries, all of the greatest length, fit. MaxOptions bounds
// how many options a server answers before it drops the client; real clients
// send fewer than ten.
const (
	MaxOptionLength = 64 << 10
	MaxOptions      = 32
)

// Sizes of the headers, in bytes.
const (
	OptionHeaderSize      = 16
	OptionReplyHeaderSize = 20
)

// OptionHeader precedes the Length bytes of an option's data ("Newstyle
// negotiation").
type OptionHeader struct {
	Option Option
	Length uint32
}

// AppendOption appends an option and its data to dst.
func AppendOption(dst []byte, opt Option, data []byte) []byte {
	dst = binary.BigEndian.AppendUint64(dst, MagicOption)
	dst = binary.BigEndian.AppendUint32(dst, uint32(opt))
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(data)))
	return append(dst, data...)
}

// DecodeOptionHeader decodes the first OptionHeaderSize bytes of b. The error
// is ErrShort or ErrMagic.
func DecodeOptionHeader(b []byte) (OptionHeader, error) {
	if len(b) < OptionHeaderSize {
		return OptionHeader{}, ErrShort
	}
	if binary.BigEndian.Uint64(b) != MagicOption {
		return OptionHeader{}, ErrMagic
	}
	return OptionHeader{
		Option: Option(binary.BigEndian.Uint32(b[8:])),
		Length: binary.BigEndian.Uint32(b[12:]),
	}, nil
}

// ReadOption reads one option and all of its data. Data longer than
// MaxOptionLength is read and thrown away; the header and ErrTooBig are
// returned, and the server may answer RepErrTooBig and go on. Other errors are
// ErrMagic and those of r: io.EOF at the very beginning, else
// io.ErrUnexpectedEOF where the peer went away.
func ReadOption(r io.Reader) (OptionHeader, []byte, error) {
	var b [OptionHeaderSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return OptionHeader{}, nil, err
	}
	h, err := DecodeOptionHeader(b[:])
	if err != nil {
		return h, nil, err
	}
	data, err := readData(r, h.Length)
	return h, data, err
}

// readData reads length bytes, or skips them when they are too many to keep.
func readData(r io.Reader, length uint32) ([]byte, error) {
	if length > MaxOptionLength {
		if _, err := io.CopyN(io.Discard, r, int64(length)); err != nil {
			return nil, cutShort(err)
		}
		return nil, ErrTooBig
	}
	data := make([]byte, length)
	if _, err := io.ReadFull(r, data); err != nil {
		return nil, cutShort(err)
	}
	return data, nil
}

// cutShort is for an end-of-file behind a header that announced more.
func cutShort(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// OptionReplyHeader precedes the Length bytes of data of a reply to an option
// ("Fixed newstyle negotiation").
type OptionReplyHeader struct {
	Option Option // the one that is answered
	Reply  Reply
	Length uint32
}

// AppendOptionReply appends a reply to opt and its data to dst. The functions
// that make data are AppendInfoExport and its like, AppendRepServer and
// AppendMetaContext.
func AppendOptionReply(dst []byte, opt Option, rep Reply, data []byte) []byte {
	dst = appendReplyHeader(dst, opt, rep, len(data))
	return append(dst, data...)
}

// AppendOptionError appends a reply that refuses opt, with a text for people;
// beyond [MaxString] bytes it is cut.
func AppendOptionError(dst []byte, opt Option, rep Reply, msg string) []byte {
	msg = clipMessage(msg)
	dst = appendReplyHeader(dst, opt, rep, len(msg))
	return append(dst, msg...)
}

func appendReplyHeader(dst []byte, opt Option, rep Reply, length int) []byte {
	dst = binary.BigEndian.AppendUint64(dst, MagicOptionReply)
	dst = binary.BigEndian.AppendUint32(dst, uint32(opt))
	dst = binary.BigEndian.AppendUint32(dst, uint32(rep))
	return binary.BigEndian.AppendUint32(dst, uint32(length))
}

// DecodeOptionReplyHeader decodes the first OptionReplyHeaderSize bytes of b.
// The error is ErrShort or ErrMagic.
func DecodeOptionReplyHeader(b []byte) (OptionReplyHeader, error) {
	if len(b) < OptionReplyHeaderSize {
		return OptionReplyHeader{}, ErrShort
	}
	if binary.BigEndian.Uint64(b) != MagicOptionReply {
		return OptionReplyHeader{}, ErrMagic
	}
	return OptionReplyHeader{
		Option: Option(binary.BigEndian.Uint32(b[8:])),
		Reply:  Reply(binary.BigEndian.Uint32(b[12:])),
		Length: binary.BigEndian.Uint32(b[16:]),
	}, nil
}

// ReadOptionReply reads one reply to an option and its data, with the bounds
// and errors of [ReadOption].
func ReadOptionReply(r io.Reader) (OptionReplyHeader, []byte, error) {
	var b [OptionReplyHeaderSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return OptionReplyHeader{}, nil, err
	}
	h, err := DecodeOptionReplyHeader(b[:])
	if err != nil {
		return h, nil, err
	}
	data, err := readData(r, h.Length)
	return h, data, err
}
