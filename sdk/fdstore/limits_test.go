// SPDX-License-Identifier: Apache-2.0

package fdstore

import (
	"math"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// sysfs makes a tree of files and symbolic links ("-> target").
func sysfs(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		err := os.MkdirAll(filepath.Dir(path), 0o700)
		if target, ok := cutArrow(content); err == nil && ok {
			err = os.Symlink(target, path)
		} else if err == nil {
			err = os.WriteFile(path, []byte(content), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func cutArrow(s string) (string, bool) {
	if len(s) > 3 && s[:3] == "-> " {
		return s[3:], true
	}
	return "", false
}

func TestLimitsAreThoseOfTheQueue(t *testing.T) {
	root := sysfs(t, map[string]string{
		"devices/pci/sda/queue/discard_max_bytes":      "1073741824\n",
		"devices/pci/sda/queue/write_zeroes_max_bytes": "0\n",
		"devices/pci/sda/sda1/partition":               "1\n",
		"dev/block/8:0":                                "-> ../../devices/pci/sda",
		"dev/block/8:1":                                "-> ../../devices/pci/sda/sda1",

		"devices/pci/sdb/queue/discard_max_bytes":      "0\n",
		"devices/pci/sdb/queue/write_zeroes_max_bytes": "18446744073709551615\n",
		"dev/block/8:16": "-> ../../devices/pci/sdb",

		"devices/pci/sdc/queue/discard_max_bytes":      "512\n",
		"devices/pci/sdc/queue/write_zeroes_max_bytes": "many\n",
		"dev/block/8:32": "-> ../../devices/pci/sdc",
	})
	for minor, want := range map[uint32]limits{
		0:  {discard: 1 << 30},
		1:  {discard: 1 << 30}, // a partition
		16: {zero: math.MaxInt64},
	} {
		got, err := readLimits(root, unix.Mkdev(8, minor))
		if err != nil || got != want {
			t.Errorf("limits of 8:%d are %+v (%v), want %+v", minor, got, err, want)
		}
	}
	for _, minor := range []uint32{32, 48} { // malformed, missing
		if got, err := readLimits(root, unix.Mkdev(8, minor)); err == nil || got != (limits{}) {
			t.Errorf("limits of 8:%d are %+v (%v), want an error", minor, got, err)
		}
	}
}
