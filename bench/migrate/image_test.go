// SPDX-License-Identifier: GPL-3.0-or-later

package migrate

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/flexnbd/flexnbd/bench/load"
)

func TestPiecesLieApartAndOnTheDisk(t *testing.T) {
	layouts := []layout{dense(gib), scattered(gib), scattered(8 * gib), scattered(64 * gib), {10 * kib * 4, 16 * kib, 4 * kib}}
	for _, l := range layouts {
		end, bytes := int64(0), int64(0)
		for _, off := range l.offsets() {
			if off < end || off%load.PageSize != 0 {
				t.Fatalf("%+v: a piece at %d, after one that ends at %d", l, off, end)
			}
			end = off + l.piece
			bytes += l.piece
		}
		if end > l.size || bytes != l.data {
			t.Errorf("%+v: %d bytes of data that end at %d", l, bytes, end)
		}
	}
}

func TestImageHoldsItsDataAndNoMore(t *testing.T) {
	l := layout{64 * mib, mib, 64 * kib}
	i, err := newImage(t.Context(), filepath.Join(t.TempDir(), "disk"), l)
	if err != nil {
		t.Fatal(err)
	}
	have, err := i.allocated()
	if err != nil || have < l.data || have > l.data+l.data/4 {
		t.Errorf("%d bytes are allocated (%v), want %d", have, err, l.data)
	}
	info, err := os.Stat(i.path)
	if err != nil || info.Size() != l.size {
		t.Errorf("the image is %d bytes long (%v), want %d", info.Size(), err, l.size)
	}
}

func TestForgettingKeepsTheImageAlone(t *testing.T) {
	i, err := emptyImage(filepath.Join(t.TempDir(), "disk"), mib)
	if err != nil {
		t.Fatal(err)
	}
	for _, record := range []string{".MIGRATED", ".MIGRATED.next"} {
		if err := os.WriteFile(i.path+record, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := i.forget(); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(filepath.Dir(i.path))
	if err != nil || len(entries) != 1 || entries[0].Name() != "disk.img" {
		t.Errorf("the folder has %v (%v)", entries, err)
	}
}
