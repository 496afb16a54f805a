// SPDX-License-Identifier: GPL-3.0-or-later

package export

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/flexnbd/flexnbd/sdk/store"
)

func TestBrokenExtentMapsAreRefused(t *testing.T) {
	many := make([]store.Extent, maxExtents+1)
	for i := range many {
		many[i] = store.Extent{Offset: 100 + int64(i), Length: 1}
	}
	for _, c := range []struct {
		want    string
		extents []store.Extent
	}{
		{"", []store.Extent{{Offset: 100, Length: 50}}},
		{"", []store.Extent{{Offset: 100, Length: 1, State: store.Hole}, {Offset: 101, Length: 2, State: store.Zero | store.Hole}}},
		{"no extent", nil},
		{"starts at 99", []store.Extent{{Offset: 99, Length: 5}}},
		{"starts at 101", []store.Extent{{Offset: 101, Length: 5}}},
		{"starts at 106", []store.Extent{{Offset: 100, Length: 5}, {Offset: 106, Length: 1}}},
		{"starts at 104", []store.Extent{{Offset: 100, Length: 5}, {Offset: 104, Length: 1}}},
		{"length 0", []store.Extent{{Offset: 100}}},
		{"length -1", []store.Extent{{Offset: 100, Length: -1}}},
		{"past the range", []store.Extent{{Offset: 100, Length: 51}}},
		{"past the range", []store.Extent{{Offset: 100, Length: 1<<63 - 1}}},
		{"past the range", []store.Extent{{Offset: 100, Length: 50}, {Offset: 150, Length: 1}}},
		{"unknown state 4", []store.Extent{{Offset: 100, Length: 5, State: 4}}},
		{"1048577 extents", many},
	} {
		err := checkExtents(c.extents, 100, 50)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want %q", err, c.want)
		}
	}
}

func TestExtentsAreCheckedBeforeUse(t *testing.T) {
	s := newTestStore(1000)
	bad := []store.Extent{{Offset: 0, Length: 2000, State: store.Zero}}
	s.extents = func(off, length int64) ([]store.Extent, error) { return bad, nil }
	e := serve(t, s)
	if e.zeros.maybeZero(0, 1000) {
		t.Fatal("the build believed a broken map")
	}
	if _, err := e.Extents(t.Context(), 0, 1000); !errors.Is(err, store.ErrIO) {
		t.Fatalf("got %v", err)
	}
	for _, r := range [][2]int64{{-1, 1}, {0, 0}, {0, 1001}, {1000, 1}, {1, 1<<63 - 1}, {2000, 1}} {
		if _, err := e.Extents(t.Context(), r[0], r[1]); !errors.Is(err, store.ErrInvalid) {
			t.Errorf("%d bytes at %d: %v", r[1], r[0], err)
		}
	}
	s.fail("extents", store.ErrNoSpace)
	if _, err := e.Extents(t.Context(), 0, 1000); !errors.Is(err, store.ErrNoSpace) {
		t.Fatalf("got %v", err)
	}
}

func TestStoreWithoutExtentsIsAllData(t *testing.T) {
	s := newTestStore(1000)
	s.info.CanExtents = false
	e := serve(t, s)
	got, err := e.Extents(t.Context(), 10, 20)
	if err != nil || !reflect.DeepEqual(got, store.AllData(10, 20)) {
		t.Fatalf("%v, %v", got, err)
	}
	if e.zeros.maybeZero(0, 1000) || len(s.calls) != 0 {
		t.Fatal("the store was asked")
	}
}

func FuzzCheckedExtentsLieInTheirRange(f *testing.F) {
	f.Add(int64(0), int64(10), []byte{5, 0, 5, 1})
	f.Fuzz(func(t *testing.T, off, length int64, runs []byte) {
		if off < 0 || length <= 0 || off > store.MaxSize-length {
			return
		}
		var extents []store.Extent
		next := off
		for i := 0; i+1 < len(runs); i += 2 {
			x := store.Extent{Offset: next + int64(int8(runs[i]))>>6, Length: int64(int8(runs[i])), State: store.State(runs[i+1] % 5)}
			extents = append(extents, x)
			next = x.End()
		}
		if checkExtents(extents, off, length) != nil {
			return
		}
		pos := off
		for _, x := range extents {
			if x.Offset != pos || x.Length <= 0 || x.End() > off+length || x.State > 3 {
				t.Fatalf("accepted %+v", x)
			}
			pos = x.End()
		}
		if pos == off {
			t.Fatal("accepted nothing")
		}
	})
}
