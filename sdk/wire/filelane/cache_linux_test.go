// SPDX-License-Identifier: Apache-2.0

package filelane

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// dropCache writes a file's pages to the disk and takes them out of the page cache.
func dropCache(t *testing.T, f *os.File) {
	t.Helper()
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
}
