// SPDX-License-Identifier: GPL-3.0-or-later

package blockdev

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/sdk/fdstore/looptest"
)

// tree makes files and, where the content is "-> target", symbolic links.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		err := os.MkdirAll(filepath.Dir(path), 0o700)
		if target, ok := strings.CutPrefix(content, "-> "); err == nil && ok {
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

func TestIdentityIsWhatStaysWithTheDevice(t *testing.T) {
	root := tree(t, map[string]string{
		"dev/block/8:0":              "-> ../../devices/sda",
		"dev/block/8:2":              "-> ../../devices/sda/sda2",
		"devices/sda/device/wwid":    "naa.600508b1001c4d16\n",
		"devices/sda/sda2/partition": "2\n",

		"dev/block/259:0":          "-> ../../devices/nvme0n1",
		"devices/nvme0n1/wwid":     "eui.0025385b01\n",
		"devices/nvme0n1/device/x": "",

		"dev/block/8:16":          "-> ../../devices/sdb",
		"devices/sdb/device/wwid": "t10.ATA     A/B é_1 \n",

		"dev/block/252:0":          "-> ../../devices/dm-0",
		"devices/dm-0/dm/uuid":     "LVM-abcDEF\n",
		"devices/dm-0/device/wwid": "naa.600508b1001c4d16\n",

		"dev/block/252:1":      "-> ../../devices/dm-1",
		"devices/dm-1/dm/uuid": "\n",
		"devices/dm-1/wwid":    "naa.1\n",

		"dev/block/8:32":             "-> ../../devices/sdc",
		"devices/sdc/device/wwid":    "eui.0000000000000000\n",
		"dev/block/8:48":             "-> ../../devices/sdd",
		"devices/sdd/size":           "8\n",
		"dev/block/8:49":             "-> ../../devices/sdd/sdd1",
		"devices/sdd/sdd1/partition": "1\n",
	})
	for number, want := range map[[2]uint32]string{
		{8, 0}:   "wwid:naa.600508b1001c4d16",
		{8, 2}:   "wwid:naa.600508b1001c4d16-part2",
		{259, 0}: "wwid:eui.0025385b01",
		{8, 16}:  "wwid:t10.ATA%20%20%20%20%20A%2FB%20%C3%A9_1",
		{252, 0}: "dm:LVM-abcDEF",
		{252, 1}: "", // never named by what is below it
		{8, 32}:  "", // all zeroes
		{8, 48}:  "",
		{8, 49}:  "",
		{9, 9}:   "", // not there
	} {
		got, err := sysfs{root: root}.identity(unix.Mkdev(number[0], number[1]))
		if got != want || (err == nil) != (want != "") {
			t.Errorf("identity of %v is %q (%v), want %q", number, got, err, want)
		}
	}
}

func TestIdentityOfALoopDeviceIsItsFile(t *testing.T) {
	root := tree(t, map[string]string{
		"image":                           "",
		"other":                           "",
		"dev/block/7:0":                   "-> ../../devices/loop0",
		"devices/loop0/loop/backing_file": "-> ../../../path",
	})
	image := filepath.Join(root, "image")
	set := func(path string) {
		t.Helper()
		_ = os.Remove(filepath.Join(root, "path"))
		if err := os.WriteFile(filepath.Join(root, "path"), []byte(path+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(image, &st); err != nil {
		t.Fatal(err)
	}
	status := unix.LoopInfo64{Device: uint64(st.Dev), Inode: st.Ino} //nolint:unconvert // a uint32 on mips
	var broken error
	s := sysfs{root: root, loop: func() (*unix.LoopInfo64, error) { answer := status; return &answer, broken }}

	set(image)
	id, err := s.identity(unix.Mkdev(7, 0))
	if err != nil || !strings.HasPrefix(id, "loop:") || !strings.HasSuffix(id, fmt.Sprintf(":%d", st.Ino)) {
		t.Fatalf("identity is %q (%v)", id, err)
	}
	status.Offset = 4096
	if at, err := s.identity(unix.Mkdev(7, 0)); err != nil || at != id+"@4096" {
		t.Errorf("further into the file, identity is %q (%v)", at, err)
	}
	for what, path := range map[string]string{"taken over": filepath.Join(root, "other"), "gone": image + " (deleted)"} {
		set(path)
		if id, err := s.identity(unix.Mkdev(7, 0)); err == nil || id != "" {
			t.Errorf("with the file %s, identity is %q", what, id)
		}
	}
	set(image)
	broken = unix.ENXIO
	if id, err := s.identity(unix.Mkdev(7, 0)); err == nil {
		t.Errorf("of a device that does not answer, identity is %q", id)
	}
}

// identify opens path and asks for its identity.
func identify(t *testing.T, path string) (string, error) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return Identity(f)
}

func TestIdentityOfRealLoopDevices(t *testing.T) {
	a, b := looptest.New(t, looptest.Options{Size: 4 << 20}), looptest.New(t, looptest.Options{Size: 4 << 20})
	further := looptest.New(t, looptest.Options{Size: 4 << 20, Offset: 1 << 20})
	shm := looptest.New(t, looptest.Options{Size: 4 << 20, Dir: "/dev/shm"})
	seen := map[string]string{}
	for _, path := range []string{a.Path, b.Path, further.Path, shm.Path, a.Partition(t, 1, 1<<20, 1<<20), a.Partition(t, 2, 2<<20, 1<<20)} {
		id, err := identify(t, path)
		if err != nil {
			t.Fatal(err)
		}
		if !regexp.MustCompile(`^loop:[0-9a-z.]+:[0-9]+(@1048576)?(-part[12])?$`).MatchString(id) {
			t.Errorf("identity of %s is %q", path, id)
		}
		if other, twice := seen[id]; twice {
			t.Errorf("%s and %s have one identity, %q", path, other, id)
		}
		seen[id] = path
	}

	// A renamed file is still the same one; a deleted one cannot be found again.
	before, _ := identify(t, a.Path)
	moved := a.Image + ".moved"
	if err := os.Rename(a.Image, moved); err != nil {
		t.Fatal(err)
	}
	if after, err := identify(t, a.Path); err != nil || after != before {
		t.Errorf("after its file was renamed, identity is %q (%v), was %q", after, err, before)
	}
	if err := os.Remove(moved); err != nil {
		t.Fatal(err)
	}
	_, err := identify(t, a.Path)
	wantError(t, err, unix.ENODATA, a.Path, "--disk-id NAME")
}

func TestFileHasNoDeviceIdentity(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := identify(t, path)
	wantError(t, err, unix.ENOTBLK, path, "a regular file")
}
