// SPDX-License-Identifier: Apache-2.0

package filelane

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// dropCache writes a file's pages to the disk and takes them out of the page cache.
func dropCache(t *testing.T, f *os.File) {
	t.Helper()
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	// What is just being read ahead, or in somebody's hands, stays: until it is gone.
	deadline := time.Now().Add(30 * time.Second)
	for {
		if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
			t.Fatal(err)
		}
		var all unix.CachestatRange // Len 0: to the end
		var is unix.Cachestat_t
		err := unix.Cachestat(uint(f.Fd()), &all, &is, 0)
		if err != nil || is.Cache == 0 { // an old kernel can't tell
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d pages stay in the cache", is.Cache)
		}
	}
}
