// SPDX-License-Identifier: GPL-3.0-or-later

package nbd

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
)

// split decodes the header of a whole chunk.
func split(t *testing.T, b []byte) (ChunkHeader, []byte) {
	t.Helper()
	h, err := DecodeChunkHeader(b)
	if err != nil {
		t.Fatalf("%x: %v", b, err)
	}
	return h, b[ChunkHeaderSize:]
}

func TestChunkLengthsImpossibleForTheTypeAreMalformed(t *testing.T) {
	for _, c := range []struct {
		flags  ChunkFlags
		typ    ChunkType
		length uint32
		ok     bool
	}{
		{ChunkFlagDone, ChunkNone, 0, true},
		{ChunkFlagDone, ChunkNone, 1, false},
		{0, ChunkNone, 0, false},
		{0, ChunkOffsetData, 8, false},
		{0, ChunkOffsetData, 9, true},
		{0, ChunkOffsetData, 1<<32 - 1, true},
		{0, ChunkOffsetHole, 11, false},
		{0, ChunkOffsetHole, 12, true},
		{0, ChunkOffsetHole, 13, false},
		{0, ChunkBlockStatus, 0, false},
		{0, ChunkBlockStatus, 4, false},
		{0, ChunkBlockStatus, 12, true},
		{0, ChunkBlockStatus, 13, false},
		{0, ChunkBlockStatus, 4 + 8*MaxExtents, true},
		{0, ChunkBlockStatus, 4 + 8*(MaxExtents+1), false},
		{0, ChunkError, 5, false},
		{0, ChunkError, 6, true},
		{0, ChunkError, 6 + MaxString, true},
		{0, ChunkError, MaxErrorPayload + 1, false},
		{0, ChunkErrorOffset, 13, false},
		{0, ChunkErrorOffset, 14, true},
		{0, ChunkErrorOffset, MaxErrorPayload + 1, false},
		{0, 0x9000, 5, false},
		{0, 0x9000, 6, true},
		{0, 0x9000, 1 << 30, false},
		{0, 0x1000, 77, true}, // unknown, for the client to judge
	} {
		h, err := DecodeChunkHeader(AppendChunkHeader(nil, c.flags, c.typ, 5, c.length))
		if (err == nil) != c.ok || (!c.ok && !errors.Is(err, ErrMalformed)) || h.Cookie != 5 {
			t.Errorf("%v of %d bytes: got %+v, %v", c.typ, c.length, h, err)
		}
	}
	b := AppendNoneChunk(nil, 1)
	b[3] ^= 1
	if _, err := DecodeChunkHeader(b); !errors.Is(err, ErrMagic) {
		t.Errorf("wrong magic: got %v", err)
	}
}

func TestContentChunksDecode(t *testing.T) {
	h, p := split(t, unhex(t, "668e33ef 0000 0001 1122334455667788 00000208 0000000000000200"))
	if off, n, err := DecodeOffsetData(h, p); off != 0x200 || n != 512 || err != nil {
		t.Errorf("data: got %d, %d, %v", off, n, err)
	}
	if _, _, err := DecodeOffsetData(h, p[:7]); !errors.Is(err, ErrShort) {
		t.Errorf("data cut: got %v", err)
	}
	if _, _, err := DecodeOffsetHole(h, p); !errors.Is(err, ErrMalformed) {
		t.Errorf("data taken for a hole: got %v", err)
	}
	if _, _, err := DecodeOffsetData(ChunkHeader{Type: ChunkOffsetData, Length: 8}, p); !errors.Is(err, ErrMalformed) {
		t.Errorf("data without data: got %v", err)
	}
	h, p = split(t, unhex(t, "668e33ef 0001 0002 1122334455667788 0000000c 0000000000000400 00000800"))
	if off, n, err := DecodeOffsetHole(h, p); off != 0x400 || n != 0x800 || err != nil {
		t.Errorf("hole: got %d, %d, %v", off, n, err)
	}
	if _, _, err := DecodeOffsetHole(h, p[:11]); !errors.Is(err, ErrShort) {
		t.Errorf("hole cut: got %v", err)
	}
	if _, _, err := DecodeOffsetData(h, p); !errors.Is(err, ErrMalformed) {
		t.Errorf("hole taken for data: got %v", err)
	}
	if _, _, err := DecodeOffsetHole(h, make([]byte, 12)); !errors.Is(err, ErrMalformed) {
		t.Errorf("hole of no bytes: got %v", err)
	}
	if _, _, err := DecodeOffsetHole(ChunkHeader{Type: ChunkOffsetHole, Length: 3}, p); !errors.Is(err, ErrMalformed) {
		t.Errorf("hole with a wrong length: got %v", err)
	}
}

func TestBlockStatusDecodes(t *testing.T) {
	h, p := split(t, unhex(t, "668e33ef 0001 0005 1122334455667788 00000014 00000001 00001000 00000003 00002000 00000000"))
	before := []Descriptor{{1, 1}}
	id, got, err := DecodeBlockStatus(before, h, p)
	want := []Descriptor{{1, 1}, {0x1000, StateHole | StateZero}, {0x2000, 0}}
	if id != 1 || !slices.Equal(got, want) || err != nil {
		t.Errorf("got %d, %v, %v", id, got, err)
	}
	if _, got, err := DecodeBlockStatus(before, h, p[:19]); !errors.Is(err, ErrShort) || !slices.Equal(got, before) {
		t.Errorf("cut: got %v, %v", got, err)
	}
	if _, _, err := DecodeBlockStatus(nil, ChunkHeader{Type: ChunkBlockStatus, Length: 3}, p); !errors.Is(err, ErrMalformed) {
		t.Errorf("wrong length: got %v", err)
	}
	if _, _, err := DecodeBlockStatus(nil, ChunkHeader{Type: ChunkOffsetHole, Length: 12}, p); !errors.Is(err, ErrMalformed) {
		t.Errorf("wrong type: got %v", err)
	}
	clear(p[12:16])
	if _, _, err := DecodeBlockStatus(nil, h, p); !errors.Is(err, ErrMalformed) {
		t.Errorf("empty extent: got %v", err)
	}
}

func TestErrorChunksDecode(t *testing.T) {
	for _, c := range []struct {
		name, chunk string
		want        ErrorChunk
	}{
		{"ERROR", "668e33ef 0001 8001 1122334455667788 00000009 00000005 0003 626164", ErrorChunk{EIO, "bad", 0}},
		{"ERROR with bytes behind its text", "668e33ef 0001 8001 1122334455667788 0000000a 00000005 0003 626164 ff", ErrorChunk{EIO, "bad", 0}},
		{"ERROR_OFFSET", "668e33ef 0000 8002 1122334455667788 00000011 0000001c 0003 626164 0000000000000300", ErrorChunk{ENOSPC, "bad", 0x300}},
		{"unknown", "668e33ef 0000 9000 1122334455667788 0000000a 00000005 0000 01020304", ErrorChunk{Errno: EIO}},
	} {
		h, p := split(t, unhex(t, c.chunk))
		if got, err := DecodeError(h, p); got != c.want || err != nil {
			t.Errorf("%s: got %+v, %v", c.name, got, err)
		}
		if _, err := DecodeError(h, p[:len(p)-1]); !errors.Is(err, ErrShort) {
			t.Errorf("%s cut: got %v", c.name, err)
		}
	}
}

func TestBrokenErrorChunksAreMalformed(t *testing.T) {
	for name, chunk := range map[string]string{
		"no error":               "668e33ef 0001 8001 1122334455667788 00000006 00000000 0000",
		"text longer than chunk": "668e33ef 0001 8001 1122334455667788 00000008 00000005 0003 6261",
		"text takes the offset":  "668e33ef 0001 8002 1122334455667788 0000000f 00000005 0002 61 0000000000000300",
		"text of 4097 bytes":     "668e33ef 0001 8001 1122334455667788 00001007 00000005 1001" + strings.Repeat("61", 4097),
	} {
		h, p := split(t, unhex(t, chunk))
		if got, err := DecodeError(h, p); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
	}
	if _, err := DecodeError(ChunkHeader{Type: ChunkOffsetData, Length: 9}, make([]byte, 9)); !errors.Is(err, ErrMalformed) {
		t.Errorf("not an error: got %v", err)
	}
	if _, err := DecodeError(ChunkHeader{Type: ChunkError, Length: 2}, make([]byte, 9)); !errors.Is(err, ErrMalformed) {
		t.Errorf("too short for its fields: got %v", err)
	}
}

func TestLongErrorTextsAreCut(t *testing.T) {
	msg := strings.Repeat("é", MaxString)
	for _, b := range [][]byte{
		AppendErrorChunk(nil, ChunkFlagDone, 1, EIO, msg),
		AppendErrorOffsetChunk(nil, ChunkFlagDone, 1, EIO, msg, 9),
	} {
		h, p := split(t, b)
		if e, err := DecodeError(h, p); err != nil || e.Message != msg[:MaxString] {
			t.Errorf("%v: %d bytes, %v", h.Type, len(e.Message), err)
		}
	}
}

func TestRequestContainsOnlyItsOwnRange(t *testing.T) {
	r := Request{Offset: 1000, Length: 100}
	for _, c := range []struct {
		offset, length uint64
		want           bool
	}{
		{1000, 100, true}, {1000, 1, true}, {1099, 1, true}, {1100, 0, true},
		{999, 1, false}, {1000, 101, false}, {1099, 2, false}, {1100, 1, false},
		{1<<64 - 1, 2, false}, {1000, 1<<64 - 1, false}, {0, 2000, false},
	} {
		if got := r.Contains(c.offset, c.length); got != c.want {
			t.Errorf("%d+%d: got %v", c.offset, c.length, got)
		}
	}
	top := Request{Offset: 1<<64 - 4, Length: 100} // ends past the last offset there is
	if top.Contains(2, 1) || !top.Contains(1<<64-2, 1) {
		t.Error("a range that wraps around is taken for one at the start")
	}
}

func FuzzDecodeRequest(f *testing.F) {
	f.Add(AppendRequest(nil, Request{CmdFlagFUA, CmdWrite, 1, 2, 3}))
	f.Add(make([]byte, RequestSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := DecodeRequest(b)
		if err == nil && !bytes.Equal(AppendRequest(nil, r), b[:RequestSize]) {
			t.Errorf("%x does not come back", b)
		}
		if errors.Is(err, ErrMagic) && !bytes.Equal(AppendRequest(nil, r)[4:], b[4:RequestSize]) {
			t.Errorf("%x loses fields over its magic", b)
		}
	})
}

func FuzzDecodeSimpleReply(f *testing.F) {
	f.Add(AppendSimpleReply(nil, EIO, 7))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := DecodeSimpleReply(b)
		if err == nil && !bytes.Equal(AppendSimpleReply(nil, r.Errno, r.Cookie), b[:SimpleReplySize]) {
			t.Errorf("%x does not come back", b)
		}
	})
}

func FuzzDecodeChunk(f *testing.F) {
	f.Add(AppendNoneChunk(nil, 1))
	f.Add(append(AppendOffsetData(nil, 0, 1, 2, 3), "abc"...))
	f.Add(AppendOffsetHole(nil, 0, 1, 2, 3))
	f.Add(AppendBlockStatus(nil, 0, 1, 2, []Descriptor{{512, StateZero}, {512, 0}}))
	f.Add(AppendErrorChunk(nil, ChunkFlagDone, 1, EIO, "text"))
	f.Add(AppendErrorOffsetChunk(nil, ChunkFlagDone, 1, EIO, "text", 512))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := DecodeChunkHeader(b)
		if err != nil {
			return
		}
		p := b[ChunkHeaderSize:]
		var again []byte
		switch h.Type {
		case ChunkOffsetData:
			var off uint64
			var n uint32
			if off, n, err = DecodeOffsetData(h, p); err == nil {
				again = AppendOffsetData(nil, h.Flags, h.Cookie, off, n)
			}
		case ChunkOffsetHole:
			var off uint64
			var n uint32
			if off, n, err = DecodeOffsetHole(h, p); err == nil {
				again = AppendOffsetHole(nil, h.Flags, h.Cookie, off, n)
			}
		case ChunkBlockStatus:
			var id uint32
			var extents []Descriptor
			if id, extents, err = DecodeBlockStatus(nil, h, p); err == nil {
				again = AppendBlockStatus(nil, h.Flags, h.Cookie, id, extents)
			}
		default:
			var e ErrorChunk
			if e, err = DecodeError(h, p); err == nil && (e.Errno == 0 || len(e.Message) > MaxString) {
				t.Errorf("%x decodes to %+v", b, e)
			}
			// Bytes behind the text are allowed, so only the plain form comes back.
			if err == nil && h.Type == ChunkError && int(h.Length) == 6+len(e.Message) {
				again = AppendErrorChunk(nil, h.Flags, h.Cookie, e.Errno, e.Message)
			}
		}
		if again != nil && !bytes.Equal(again, b[:len(again)]) {
			t.Errorf("%x comes back as %x", b, again)
		}
	})
}
