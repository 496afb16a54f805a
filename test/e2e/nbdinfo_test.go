// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestSizeIsExact(t *testing.T) {
	t.Parallel()
	needs(t, "nbdinfo")
	onEachBackend(t, func(t *testing.T, b setting) {
		for _, size := range []int64{0, 1, 511, 513, 4095, 1000003} {
			s := b.serve(t, size)
			if got, want := must(t, "nbdinfo", "--size", s.uri()), fmt.Sprintln(b.size(size)); got != want {
				t.Errorf("nbdinfo --size printed %q, the disk has %s bytes", got, want)
			}
		}
	})
}

func TestNbdinfoSeesTheExport(t *testing.T) {
	t.Parallel()
	needs(t, "nbdinfo")
	onEachBackend(t, func(t *testing.T, b setting) {
		s := b.serve(t, 1<<20+1)
		plain := must(t, "nbdinfo", s.uri())
		for _, want := range []string{fmt.Sprintf("export-size: %d\n", b.size(1<<20+1)), "is_read_only: false", "can_flush: true", "can_fua: true",
			"can_trim: true", "can_zero: true", "can_df: true", "can_multi_conn: true", "can_cache: true", "can_fast_zero: true", "base:allocation"} {
			if !strings.Contains(plain, want) {
				t.Errorf("nbdinfo does not say %q", want)
			}
		}
		if t.Failed() {
			t.Logf("nbdinfo: %s", plain)
		}
		if list := must(t, "nbdinfo", "--list", s.uri()); strings.Count(list, "export=") != 1 || !strings.Contains(list, `export="":`) {
			t.Errorf("nbdinfo --list does not show one export without a name:\n%s", list)
		}
	})
}

func TestNbdinfoJSON(t *testing.T) {
	t.Parallel()
	needs(t, "nbdinfo")
	onEachBackend(t, func(t *testing.T, b setting) {
		s := b.serve(t, 3<<20, "--read-only")
		var info struct {
			Protocol   string
			Structured bool
			Exports    []struct {
				Name     string   `json:"export-name"`
				Size     int64    `json:"export-size"`
				ReadOnly bool     `json:"is_read_only"`
				CanTrim  bool     `json:"can_trim"`
				CanZero  bool     `json:"can_zero"`
				BlockMin int64    `json:"block_size_minimum"`
				BlockMax int64    `json:"block_size_maximum"`
				Contexts []string `json:"contexts"`
			}
		}
		text := must(t, "nbdinfo", "--json", s.uri())
		if err := json.Unmarshal([]byte(text), &info); err != nil {
			t.Fatal(err)
		}
		if info.Protocol != "newstyle-fixed" || !info.Structured || len(info.Exports) != 1 {
			t.Fatalf("nbdinfo --json: %s", text)
		}
		e := info.Exports[0]
		if e.Name != "" || e.Size != 3<<20 || !e.ReadOnly || e.CanTrim || e.CanZero || e.BlockMin != 1 || e.BlockMax < 32<<20 ||
			!slices.Contains(e.Contexts, "base:allocation") {
			t.Errorf("nbdinfo --json: %s", text)
		}
	})
}

func TestNbdinfoMapShowsHoles(t *testing.T) {
	t.Parallel()
	needs(t, "nbdinfo")
	onEachBackend(t, func(t *testing.T, b setting) {
		s := b.serve(t, 4<<20)
		s.write(t, randomBytes(1, 64<<10), 1<<20)
		var extents []extent
		text := must(t, "nbdinfo", "--map", "--json", s.uri())
		if err := json.Unmarshal([]byte(text), &extents); err != nil {
			t.Fatal(err)
		}
		want := []extent{{0, 1 << 20, 3}, {1 << 20, 64 << 10, 0}, {1<<20 + 64<<10, 3<<20 - 64<<10, 3}}
		if !b.holes {
			want = []extent{{0, 4 << 20, 0}}
		}
		if got := merged(extents); !slices.Equal(got, want) {
			t.Errorf("nbdinfo --map: %v, want %v\n%s", got, want, text)
		}
	})
}

// extent is a line of nbdinfo --map --json. Type is that of base:allocation: 1 for
// a hole plus 2 for zeroes.
type extent struct {
	Offset, Length int64
	Type           int
}

// merged joins neighbours of one type: how a server cuts extents is its own affair.
func merged(extents []extent) []extent {
	var all []extent
	for _, e := range extents {
		if last := len(all) - 1; last >= 0 && all[last].Type == e.Type && all[last].Offset+all[last].Length == e.Offset {
			all[last].Length += e.Length
			continue
		}
		all = append(all, e)
	}
	return all
}
