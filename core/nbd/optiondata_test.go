// SPDX-License-Identifier: GPL-3.0-or-later

package nbd

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestInfoRequestParses(t *testing.T) {
	name, infos, err := ParseInfoRequest(unhex(t, "00000002 6430 0003 0003 0001 00ff"))
	if name != "d0" || !slices.Equal(infos, []InfoType{InfoBlockSize, InfoName, 255}) || err != nil {
		t.Errorf("got %q, %v, %v", name, infos, err)
	}
	name, infos, err = ParseInfoRequest(unhex(t, "00000000 0000"))
	if name != "" || len(infos) != 0 || err != nil {
		t.Errorf("default export: got %q, %v, %v", name, infos, err)
	}
}

func TestBrokenInfoRequestsAreMalformed(t *testing.T) {
	for name, data := range map[string]string{
		"empty":                       "",
		"no count":                    "00000000 00",
		"name longer than the option": "00000003 6430 0000",
		"name takes the count":        "00000004 6430 0000",
		"name length wraps around":    "ffffffff 0000",
		"name of 2^31 bytes":          "80000000 0000",
		"too few infos":               "00000000 0002 0003",
		"half an info":                "00000000 0001 00",
		"bytes behind":                "00000000 0001 0003 00",
		"NUL in the name":             "00000003 610062 0000",
		"not UTF-8":                   "00000002 c328 0000",
		"name of 4097 bytes":          "00001001" + strings.Repeat("61", 4097) + "0000",
	} {
		if _, _, err := ParseInfoRequest(unhex(t, data)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	longest := strings.Repeat("a", MaxString)
	if name, _, err := ParseInfoRequest(AppendInfoRequest(nil, longest)); name != longest || err != nil {
		t.Errorf("name of 4096 bytes: got %d bytes, %v", len(name), err)
	}
}

func TestMetaContextRequestParses(t *testing.T) {
	export, queries, err := ParseMetaContextRequest(unhex(t, "00000001 78 00000002 00000005 626173653a 00000000"))
	if export != "x" || !slices.Equal(queries, []string{BaseNamespace, ""}) || err != nil {
		t.Errorf("got %q, %q, %v", export, queries, err)
	}
	export, queries, err = ParseMetaContextRequest(unhex(t, "00000000 00000000"))
	if export != "" || len(queries) != 0 || err != nil {
		t.Errorf("no queries: got %q, %q, %v", export, queries, err)
	}
}

func TestBrokenMetaContextRequestsAreMalformed(t *testing.T) {
	for name, data := range map[string]string{
		"empty":                    "",
		"name too long":            "00000005 78 00000000",
		"no count":                 "00000001 78 0000",
		"2^32 - 1 queries":         "00000000 ffffffff 00000000",
		"one query too few":        "00000000 00000002 00000001 61",
		"query longer than option": "00000000 00000001 00000002 61",
		"query length wraps":       "00000000 00000001 ffffffff 61",
		"bytes behind":             "00000000 00000001 00000001 61 00",
		"bytes behind no query":    "00000000 00000000 61",
		"NUL in a query":           "00000000 00000001 00000001 00",
		"query not UTF-8":          "00000000 00000001 00000001 ff",
		"query of 4097 bytes":      "00000000 00000001 00001001" + strings.Repeat("61", 4097),
		"name not UTF-8":           "00000001 ff 00000000",
	} {
		if _, _, err := ParseMetaContextRequest(unhex(t, data)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestExportNameParses(t *testing.T) {
	for _, ok := range []string{"", "disk", "Ä/ö", strings.Repeat("n", MaxString)} {
		if name, err := ParseExportName([]byte(ok)); name != ok || err != nil {
			t.Errorf("got %q, %v", name, err)
		}
	}
	for _, bad := range []string{"a\x00", "\xff", strings.Repeat("n", MaxString+1)} {
		if _, err := ParseExportName([]byte(bad)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%d bytes: got %v", len(bad), err)
		}
	}
}

func FuzzParseInfoRequest(f *testing.F) {
	f.Add(AppendInfoRequest(nil, "disk", InfoBlockSize, InfoName))
	f.Add([]byte{0, 0, 0, 0, 0, 0})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		name, infos, err := ParseInfoRequest(b)
		if err == nil && !bytes.Equal(AppendInfoRequest(nil, name, infos...), b) {
			t.Errorf("%x does not come back", b)
		}
	})
}

func FuzzParseMetaContextRequest(f *testing.F) {
	f.Add(AppendMetaContextRequest(nil, "disk", BaseAllocation, "qemu:"))
	f.Add([]byte{0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		export, queries, err := ParseMetaContextRequest(b)
		if err == nil && !bytes.Equal(AppendMetaContextRequest(nil, export, queries...), b) {
			t.Errorf("%x does not come back", b)
		}
	})
}

func FuzzParseExportName(f *testing.F) {
	f.Add([]byte("disk"))
	f.Add([]byte{0})
	f.Fuzz(func(t *testing.T, b []byte) {
		name, err := ParseExportName(b)
		if err == nil && (name != string(b) || CheckString("the name", name) != nil) {
			t.Errorf("%x gives %q", b, name)
		}
	})
}
