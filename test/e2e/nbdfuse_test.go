// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A file system lives on a served disk: nbdfuse shows the disk as a file, and the
// kernel mounts that.
func TestFileSystemOnNbdfuse(t *testing.T) {
	needs(t, "nbdfuse", "fusermount3", "mkfs.ext4", "fsck.ext4", "losetup", "mount", "umount")
	needsFUSE(t)
	onEachBackendOnce(t, func(t *testing.T, b setting) {
		s := b.serve(t, 48<<20)
		disk, detach := nbdfuse(t, s.uri())
		must(t, "mkfs.ext4", "-q", "-F", "-E", "nodiscard", disk)
		mnt, umount := mount(t, disk)
		files := writeTree(t, mnt)
		umount()
		detach()

		disk, _ = nbdfuse(t, s.uri()) // nothing but the server remembers anything now
		must(t, "fsck.ext4", "-f", "-n", disk)
		mnt, _ = mount(t, disk)
		for path, want := range files {
			if got, err := os.ReadFile(filepath.Join(mnt, path)); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: not what was written (%v)", path, err)
			}
		}
	})
}

// needsFUSE skips the test where nothing can be mounted.
func needsFUSE(t *testing.T) {
	t.Helper()
	needsRoot(t, "mount a file system")
	for _, device := range []string{"/dev/fuse", "/dev/loop-control"} {
		if _, err := os.Stat(device); err != nil {
			lacks(t, "this machine has no %s, without which nothing can be mounted", device)
		}
	}
}

// writeTree writes some files and deletes others.
func writeTree(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for i := range 20 {
		folder := filepath.Join(dir, fmt.Sprint(i%3))
		if err := os.MkdirAll(folder, 0o755); err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(fmt.Sprint(i%3), fmt.Sprint(i))
		content := randomBytes(uint64(i), i*i*1500)
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
		if i%4 == 1 {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
			continue
		}
		files[name] = content
	}
	return files
}

// nbdfuse shows a disk as a file until detach, at the latest until the test ends.
// The arguments say where the disk is: a URI, or a command in brackets.
func nbdfuse(t *testing.T, where ...string) (disk string, detach func()) {
	t.Helper()
	dir := t.TempDir()
	var said output
	cmd := exec.Command("nbdfuse", append([]string{dir}, where...)...)
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = unix.Unmount(dir, unix.MNT_DETACH) // it may be in use, or gone
		_ = cmd.Process.Kill()
	})
	disk = filepath.Join(dir, "nbd")
	eventually(t, "nbdfuse shows the disk; it said: "+said.String(), func() bool {
		_, err := os.Stat(disk)
		return err == nil
	})
	return disk, func() {
		t.Helper()
		// The loop device is freed a moment after its umount.
		eventually(t, "the disk is not in use", func() bool {
			return run(t, nil, "fusermount3", "-u", dir).status == 0
		})
		if err := <-ended; err != nil {
			t.Fatalf("nbdfuse: %v\n%s", err, said.String())
		}
	}
}

// mount mounts an image until umount, at the latest until the test ends.
func mount(t *testing.T, image string) (dir string, umount func()) {
	t.Helper()
	dir = mountAt(t, "-o", "loop", image)
	return dir, func() {
		t.Helper()
		must(t, "umount", dir)
	}
}

// mountAt mounts what the arguments of mount(8) say until the test ends, and returns
// where.
func mountAt(t *testing.T, arguments ...string) string {
	t.Helper()
	dir := t.TempDir()
	must(t, "mount", append(arguments, dir)...)
	t.Cleanup(func() {
		err := unix.Unmount(dir, 0)
		if err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: not mounted
			t.Errorf("umount %s: %v", dir, err)
			_ = unix.Unmount(dir, unix.MNT_DETACH)
		}
	})
	return dir
}
