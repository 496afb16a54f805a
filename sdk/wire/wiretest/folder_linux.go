// SPDX-License-Identifier: Apache-2.0

package wiretest

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// FolderOnDisk returns a new folder on a file system with a page cache, for tests of
// what depends on that: on tmpfs everything is cached, and nothing is lent. It looks
// beside the test where the folder for temporary files is on tmpfs.
func FolderOnDisk(t testing.TB) string {
	t.Helper()
	for _, place := range []string{os.TempDir(), "."} {
		var fs unix.Statfs_t
		if unix.Statfs(place, &fs) != nil || int64(fs.Type) == unix.TMPFS_MAGIC { //nolint:unconvert // Type's type differs between machines
			continue
		}
		dir, err := os.MkdirTemp(place, "ondisk-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		return dir
	}
	t.Fatal("there is no file system but tmpfs here: set TMPDIR to a folder on a disk")
	return ""
}
