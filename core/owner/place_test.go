// SPDX-License-Identifier: GPL-3.0-or-later

package owner_test

import (
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/flexnbd/flexnbd/core/owner"
)

func TestEveryPathToAnImageFindsTheSameRecords(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(dir, "disk.img")
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Symlink(image, filepath.Join(dir, "link")),
		os.Symlink(".", filepath.Join(dir, "folder")), os.Symlink("folder/link", filepath.Join(dir, "far"))); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	for _, path := range []string{image, "disk.img", "link", "./folder/link", "far", dir + "/folder/../" + filepath.Base(dir) + "/far"} {
		p, err := owner.Beside(path)
		if err != nil || p.Migrated() != image+".MIGRATED" || p.StateDir {
			t.Errorf("%s: %+v, %v", path, p, err)
		}
	}
	if p, err := owner.Beside("nothing"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing image: %+v, %v", p, err)
	}
}

func TestNameWithoutRoomForRecordsIsAnError(t *testing.T) {
	dir := t.TempDir()
	for length, fits := range map[int]bool{237: true, 238: false} {
		image := filepath.Join(dir, strings.Repeat("x", length))
		if err := os.WriteFile(image, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := owner.Beside(image)
		if fits {
			r, err := owner.Open(owner.Disk, p)
			if err == nil {
				err = r.Check()
			}
			if err != nil {
				t.Error(err)
			}
		} else if !errors.Is(err, syscall.ENAMETOOLONG) {
			t.Errorf("%d bytes: %v", length, err)
		}
	}
}

func TestKeysBecomeNames(t *testing.T) {
	for key, want := range map[string]string{
		"wwid-naa.5000c500a1b2c3d4": "wwid-naa.5000c500a1b2c3d4",
		"/dev/disk/x y":             "%2Fdev%2Fdisk%2Fx%20y",
		"..":                        "%2E.",
		"100%":                      "100%25",
		"a~b\n":                     "a%7Eb%0A",
	} {
		p := owner.InState("/var/lib/flexnbd", key)
		if p.Name != want || !p.StateDir || p.Incomplete() != "/var/lib/flexnbd/"+want+".INCOMPLETE" {
			t.Errorf("%q: %+v", key, p)
		}
		if back, err := url.PathUnescape(p.Name); err != nil || back != key {
			t.Errorf("%q came back as %q, %v", key, back, err)
		}
	}
	long := strings.Repeat("nfs://host/", 100)
	a, b := owner.InState("/s", long), owner.InState("/s", long+"x")
	if a == b || len(a.Name) > 200 || !strings.HasPrefix(a.Name, "nfs%3A%2F%2Fhost") {
		t.Errorf("long keys are named %q and %q", a.Name, b.Name)
	}
}
