// SPDX-License-Identifier: GPL-3.0-or-later

package nbd

import (
	"bytes"
	"errors"
	"testing"
)

func TestInfoParses(t *testing.T) {
	for _, c := range []struct {
		data string
		want Info
	}{
		{"0000 0000000000100000 0003", Info{Type: InfoExport, Size: 1 << 20, Flags: FlagHasFlags | FlagReadOnly}},
		{"0001 6e61", Info{Type: InfoName, Text: "na"}},
		{"0001", Info{Type: InfoName}},
		{"0002 64", Info{Type: InfoDescription, Text: "d"}},
		{"0003 00000200 00001000 02000000", Info{Type: InfoBlockSize, BlockSizes: BlockSizes{512, 4096, 32 << 20}}},
		{"0003 00010000 00010000 ffffffff", Info{Type: InfoBlockSize, BlockSizes: BlockSizes{65536, 65536, 1<<32 - 1}}},
		{"0063 ffff", Info{Type: 0x63}},
	} {
		if got, err := ParseInfo(unhex(t, c.data)); got != c.want || err != nil {
			t.Errorf("%s: got %+v, %v", c.data, got, err)
		}
	}
}

func TestBrokenInfoIsMalformed(t *testing.T) {
	for name, data := range map[string]string{
		"empty":                        "",
		"half a type":                  "00",
		"export too short":             "0000 0000000000100000 00",
		"export too long":              "0000 0000000000100000 0003 00",
		"sizes too short":              "0003 00000200 00001000",
		"sizes too long":               "0003 00000200 00001000 02000000 00",
		"minimum 0":                    "0003 00000000 00001000 02000000",
		"minimum not a power of two":   "0003 00000003 00001000 02000000",
		"minimum over 64 KiB":          "0003 00020000 00020000 02000000",
		"preferred not a power of two": "0003 00000001 00001001 02000000",
		"preferred under 512":          "0003 00000001 00000100 02000000",
		"preferred under minimum":      "0003 00001000 00000200 02000000",
		"maximum under preferred":      "0003 00000001 00001000 00000fff",
		"name with NUL":                "0001 00",
		"description not UTF-8":        "0002 ff",
	} {
		if got, err := ParseInfo(unhex(t, data)); !errors.Is(err, ErrMalformed) || got != (Info{}) {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
	}
}

func TestDefaultBlockSizesAreValid(t *testing.T) {
	if err := DefaultBlockSizes.Check(); err != nil {
		t.Error(err)
	}
}

func TestRepServerParses(t *testing.T) {
	name, text, err := ParseRepServer(unhex(t, "00000002 6162 63"))
	if name != "ab" || text != "c" || err != nil {
		t.Errorf("got %q, %q, %v", name, text, err)
	}
	for _, bad := range []string{"", "000000", "00000001", "00000003 6162", "00000001 00", "00000000 ff"} {
		if _, _, err := ParseRepServer(unhex(t, bad)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: got %v", bad, err)
		}
	}
}

func TestMetaContextParses(t *testing.T) {
	id, name, err := ParseMetaContext(unhex(t, "00000007 626173653a78"))
	if id != 7 || name != "base:x" || err != nil {
		t.Errorf("got %d, %q, %v", id, name, err)
	}
	for _, bad := range []string{"", "000000", "00000007 00", "00000007 ff"} {
		if _, _, err := ParseMetaContext(unhex(t, bad)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: got %v", bad, err)
		}
	}
}

func FuzzParseInfo(f *testing.F) {
	f.Add(AppendInfoExport(nil, 1<<40, FlagHasFlags))
	f.Add(AppendInfoBlockSize(nil, DefaultBlockSizes))
	f.Add(AppendInfoName(nil, "disk"))
	f.Add(AppendInfoDescription(nil, "a disk"))
	f.Fuzz(func(t *testing.T, b []byte) {
		info, err := ParseInfo(b)
		if err != nil {
			return
		}
		var again []byte
		switch info.Type {
		case InfoExport:
			again = AppendInfoExport(nil, info.Size, info.Flags)
		case InfoBlockSize:
			again = AppendInfoBlockSize(nil, info.BlockSizes)
		case InfoName:
			again = AppendInfoName(nil, info.Text)
		case InfoDescription:
			again = AppendInfoDescription(nil, info.Text)
		default:
			return
		}
		if !bytes.Equal(again, b) {
			t.Errorf("%x comes back as %x", b, again)
		}
	})
}

func FuzzParseRepServer(f *testing.F) {
	f.Add(AppendRepServer(nil, "disk", "text"))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		name, text, err := ParseRepServer(b)
		if err == nil && !bytes.Equal(AppendRepServer(nil, name, text), b) {
			t.Errorf("%x does not come back", b)
		}
	})
}

func FuzzParseMetaContext(f *testing.F) {
	f.Add(AppendMetaContext(nil, 1, BaseAllocation))
	f.Fuzz(func(t *testing.T, b []byte) {
		id, name, err := ParseMetaContext(b)
		if err == nil && !bytes.Equal(AppendMetaContext(nil, id, name), b) {
			t.Errorf("%x does not come back", b)
		}
	})
}

func FuzzDecodeExportNameReply(f *testing.F) {
	f.Add(AppendExportNameReply(nil, 1<<40, FlagHasFlags, false))
	f.Fuzz(func(t *testing.T, b []byte) {
		size, flags, err := DecodeExportNameReply(b)
		if err == nil && !bytes.Equal(AppendExportNameReply(nil, size, flags, true), b[:ExportNameReplySize]) {
			t.Errorf("%x does not come back", b)
		}
	})
}
