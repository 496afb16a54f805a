// SPDX-License-Identifier: GPL-3.0-or-later

package nbd

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestOptionsReadInSequenceStayInStep(t *testing.T) {
	big := bytes.Repeat([]byte{0xaa}, MaxOptionLength+1)
	largest := big[:MaxOptionLength]
	var b []byte
	b = AppendOption(b, 99, []byte("what"))
	b = AppendOption(b, OptExportName, big)
	b = AppendOption(b, OptSetMetaContext, largest)
	b = AppendOption(b, OptAbort, nil)
	r := bytes.NewReader(b)

	h, data, err := ReadOption(r)
	if h != (OptionHeader{99, 4}) || string(data) != "what" || err != nil {
		t.Fatalf("got %+v, %q, %v", h, data, err)
	}
	if h, data, err = ReadOption(r); h != (OptionHeader{OptExportName, MaxOptionLength + 1}) || data != nil || !errors.Is(err, ErrTooBig) {
		t.Fatalf("got %+v, %d bytes, %v", h, len(data), err)
	}
	if h, data, err = ReadOption(r); h.Option != OptSetMetaContext || !bytes.Equal(data, largest) || err != nil {
		t.Fatalf("got %+v, %d bytes, %v", h, len(data), err)
	}
	if h, data, err = ReadOption(r); h != (OptionHeader{OptAbort, 0}) || len(data) != 0 || err != nil {
		t.Fatalf("got %+v, %d bytes, %v", h, len(data), err)
	}
	if _, _, err = ReadOption(r); !errors.Is(err, io.EOF) {
		t.Fatalf("at the end: got %v", err)
	}
}

func TestOptionCutAnywhereIsUnexpectedEOF(t *testing.T) {
	for _, whole := range [][]byte{
		AppendOption(nil, OptGo, []byte("abcdef")),
		AppendOption(nil, OptGo, make([]byte, MaxOptionLength+3)),
	} {
		for _, n := range []int{1, 15, 16, 17, len(whole) - 1} {
			if _, _, err := ReadOption(bytes.NewReader(whole[:n])); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%d of %d bytes: got %v", n, len(whole), err)
			}
		}
	}
	whole := AppendOptionReply(nil, OptGo, RepInfo, []byte("abcdef"))
	for n := 1; n < len(whole); n++ {
		if _, _, err := ReadOptionReply(bytes.NewReader(whole[:n])); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("reply, %d of %d bytes: got %v", n, len(whole), err)
		}
	}
}

func TestOptionWithWrongMagicIsRefused(t *testing.T) {
	b := AppendOption(nil, OptGo, nil)
	b[0] ^= 1
	if _, _, err := ReadOption(bytes.NewReader(b)); !errors.Is(err, ErrMagic) {
		t.Errorf("option: got %v", err)
	}
	b = AppendOptionReply(nil, OptGo, RepAck, nil)
	b[7] ^= 1
	if _, _, err := ReadOptionReply(bytes.NewReader(b)); !errors.Is(err, ErrMagic) {
		t.Errorf("reply: got %v", err)
	}
}

func TestErrorTextIsCutBetweenCharacters(t *testing.T) {
	msg := strings.Repeat("x", MaxString-1) + "é" // the é would end one byte too late
	b := AppendOptionError(nil, OptGo, RepErrPolicy, msg)
	h, data, err := ReadOptionReply(bytes.NewReader(b))
	if err != nil || h.Reply != RepErrPolicy || string(data) != msg[:MaxString-1] {
		t.Errorf("got %+v, %d bytes, %v", h, len(data), err)
	}
	if err := CheckString("the text", string(data)); err != nil {
		t.Error(err)
	}
	exact := strings.Repeat("y", MaxString)
	if b := AppendOptionError(nil, OptGo, RepErrPolicy, exact); len(b) != OptionReplyHeaderSize+MaxString {
		t.Errorf("a text of the greatest length became %d bytes", len(b)-OptionReplyHeaderSize)
	}
}

func FuzzReadOption(f *testing.F) {
	f.Add(AppendOption(nil, OptGo, AppendInfoRequest(nil, "name", InfoBlockSize)))
	f.Add(AppendOption(nil, OptAbort, nil))
	f.Add([]byte("IHAVEOPT\x00\x00\x00\x01\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		h, data, err := ReadOption(r)
		used := b[:len(b)-r.Len()]
		switch {
		case err == nil:
			if !bytes.Equal(AppendOption(nil, h.Option, data), used) {
				t.Errorf("%x does not come back", used)
			}
		case errors.Is(err, ErrTooBig):
			if h.Length <= MaxOptionLength || len(used) != OptionHeaderSize+int(h.Length) {
				t.Errorf("%d bytes used for %+v", len(used), h)
			}
		}
	})
}

func FuzzReadOptionReply(f *testing.F) {
	f.Add(AppendOptionReply(nil, OptGo, RepInfo, AppendInfoExport(nil, 1, FlagHasFlags)))
	f.Add(AppendOptionError(nil, OptGo, RepErrUnknown, "no such export"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		h, data, err := ReadOptionReply(r)
		if err == nil && !bytes.Equal(AppendOptionReply(nil, h.Option, h.Reply, data), b[:len(b)-r.Len()]) {
			t.Errorf("%x does not come back", b)
		}
	})
}
