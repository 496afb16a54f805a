// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/sdk/fdstore/looptest"
)

// refused checks that a disk is not served, and that the reason is said.
func refused(t *testing.T, why string, arguments ...string) {
	t.Helper()
	r := run(t, nil, programs.flexnbd, append([]string{"serve", "--addr", "127.0.0.1", "--port", "0"}, arguments...)...)
	if r.status != 1 || r.stdout != "" || !strings.Contains(r.stderr, why) {
		t.Errorf("serve %q: exit status %d, want 1 and %q\n%s%s", arguments, r.status, why, r.stdout, r.stderr)
	}
}

func TestBackendIsChosenByWhatIsServed(t *testing.T) {
	loop := looptest.New(t, looptest.Options{Size: 1 << 20})
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(loop.Path, link); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{loop.Path: "blockdev", link: "blockdev", sparseFile(t, 1<<20): "file"} {
		s := serve(t, "--file", path)
		if status := s.status(); status["backend"] != want || status["backend_path"] != "builtin" || status["size"] != "1048576" {
			t.Errorf("%s: %v, want the backend %s", path, status, want)
		}
		s.stop(unix.SIGTERM)
	}
	named := serve(t, "--file", loop.Path, "--backend", "blockdev")
	if got := named.status()["backend"]; got != "blockdev" {
		t.Errorf("with --backend blockdev the backend is %s", got)
	}
}

func TestWrongBackendIsExplained(t *testing.T) {
	loop := looptest.New(t, looptest.Options{Size: 1 << 20})
	file := sparseFile(t, 1<<20)
	refused(t, "image "+loop.Path+" is a block device; use --backend blockdev", "--backend", "file", "--file", loop.Path)
	refused(t, file+" is no block device but a regular file; use --backend file", "--backend", "blockdev", "--file", file)
	refused(t, "/dev/null is no block device but a character device", "--backend", "blockdev", "--file", "/dev/null")
	refused(t, "image /dev/null is a character device", "--file", "/dev/null")
	refused(t, "/dev/nosuch cannot be opened: no such file or directory; attach the device first", "--backend", "blockdev", "--file", "/dev/nosuch")
}

// A block device is had by one only, whoever it is.
func TestDeviceInUseIsRefused(t *testing.T) {
	needs(t, "mkfs.ext4")
	loop := looptest.New(t, looptest.Options{Size: 8 << 20})
	const inUse = "it is mounted, served, or in use by"

	s := serve(t, "--file", loop.Path)
	refused(t, inUse, "--file", loop.Path)
	refused(t, inUse, "--file", loop.Path, "--read-only")
	s.write(t, randomBytes(1, 100), 0) // the one that has it is left alone
	s.stop(unix.SIGTERM)

	must(t, "mkfs.ext4", "-q", "-F", loop.Path)
	dir := t.TempDir()
	if err := unix.Mount(loop.Path, dir, "ext4", 0, ""); err != nil {
		t.Fatal(err)
	}
	refused(t, inUse, "--file", loop.Path)
	refused(t, inUse, "--file", loop.Path, "--read-only")
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
	s = serve(t, "--file", loop.Path)
	if err := unix.Mount(loop.Path, dir, "ext4", 0, ""); err == nil {
		_ = unix.Unmount(dir, 0)
		t.Error("a device that is served can be mounted")
	}
	if got := s.status()["size"]; got != "8388608" {
		t.Errorf("the size is %s", got)
	}
}

func TestReadOnlyDevice(t *testing.T) {
	loop := looptest.New(t, looptest.Options{Size: 1 << 20, ReadOnly: true})
	refused(t, "serve it with --read-only", "--file", loop.Path)
	s := serve(t, "--read-only", "--file", loop.Path)
	s.read(t, 0, 4096)
}

// --disk-id names a device that has no name of its own; what is served says which
// name it has.
func TestDiskID(t *testing.T) {
	s := serve(t, "--file", sparseFile(t, 4096), "--disk-id", "web1")
	if got := s.status()["disk_id"]; got != "web1" {
		t.Errorf("disk_id=%s, want web1", got)
	}
	if r := run(t, nil, programs.flexnbd, "serve", "--addr", "127.0.0.1", "--port", "0", "--file", "x", "--disk-id", "a b"); r.status != 2 ||
		!strings.Contains(r.stderr, `--disk-id "a b"`) {
		t.Errorf("a name with a space: exit status %d, %s", r.status, r.stderr)
	}
}
