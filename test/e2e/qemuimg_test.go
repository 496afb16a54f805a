// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"testing"
)

// qemu thinks in sectors.
var converted = checkingImage{size: 20<<20 + 512, seed: 2}

func TestQemuImgInfo(t *testing.T) {
	t.Parallel()
	needs(t, "qemu-img")
	onEachBackend(t, func(t *testing.T, b setting) {
		s := b.serve(t, converted.size)
		var info struct {
			Size   int64  `json:"virtual-size"`
			Format string `json:"format"`
		}
		text := must(t, "qemu-img", "info", "--output=json", s.uri())
		if err := json.Unmarshal([]byte(text), &info); err != nil {
			t.Fatal(err)
		}
		if info.Size != converted.size || info.Format != "raw" {
			t.Errorf("qemu-img info: %s", text)
		}
	})
}

func TestQemuImgConvertCompareAndMap(t *testing.T) {
	t.Parallel()
	needs(t, "qemu-img")
	original := converted.create(t)
	onEachBackend(t, func(t *testing.T, b setting) {
		s := b.serve(t, converted.size)
		raw := []string{"-f", "raw", "-O", "raw"}
		must(t, "qemu-img", append(append([]string{"convert", "-n", "-W", "-m", "8"}, raw...), original, s.uri())...)
		compare := []string{"compare", "-f", "raw", "-F", "raw"}
		if b.holes {
			compare = append(compare, "-s") // holes have to be in the same places
		}
		must(t, "qemu-img", append(compare, original, s.uri())...)

		back := filepath.Join(t.TempDir(), "back")
		must(t, "qemu-img", append(append([]string{"convert"}, raw...), s.uri(), back)...)
		converted.checkFile(t, back)
		sameSpace(t, original, back)

		want := qemuMap(t, original)
		if !b.holes {
			want = []area{{0, converted.size, true, false}}
		}
		if got := qemuMap(t, s.uri()); !slices.Equal(got, want) {
			t.Errorf("qemu-img map sees other data and holes than in the file:\n%v\n%v", got, want)
		}
	})
}

func TestQemuImgCompareSeesADifference(t *testing.T) {
	needs(t, "qemu-img")
	s := serve(t, "--file", converted.create(t))
	other := checkingImage{size: converted.size, seed: 3}.create(t)
	if r := run(t, nil, "qemu-img", "compare", "-f", "raw", "-F", "raw", other, s.uri()); r.status != 1 {
		t.Errorf("exit status %d, want 1 for images that differ: %s%s", r.status, r.stdout, r.stderr)
	}
}

// area is a line of qemu-img map.
type area struct {
	Start, Length int64
	Data, Zero    bool
}

// qemuMap is what qemu-img map says, with neighbours of one kind joined.
func qemuMap(t *testing.T, image string) []area {
	t.Helper()
	var areas, joined []area
	text := must(t, "qemu-img", "map", "--output=json", "-f", "raw", image)
	if err := json.Unmarshal([]byte(text), &areas); err != nil {
		t.Fatal(err)
	}
	for _, a := range areas {
		if last := len(joined) - 1; last >= 0 && joined[last].Data == a.Data && joined[last].Zero == a.Zero {
			joined[last].Length += a.Length
			continue
		}
		joined = append(joined, a)
	}
	return joined
}
