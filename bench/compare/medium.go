// SPDX-License-Identifier: GPL-3.0-or-later

package compare

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// medium is where the image is.
type medium struct {
	name  string
	about string
	inRAM bool // on tmpfs, else below the folder for temporary files
	loop  bool // served as a loop block device, with a page cache of its own
	cold  bool // the page cache is emptied before each slice
}

var media = []medium{
	{name: "tmpfs", inRAM: true, about: "a file on tmpfs (/dev/shm)"},
	{name: "ext4", about: "a file on the file system of the folder for temporary files, in the page cache"},
	{name: "loop", inRAM: true, loop: true, about: "a loop device over a file on tmpfs: a block device, without a real disk's noise"},
	{name: "uncached", cold: true, about: "a file as for ext4, whose pages are dropped with posix_fadvise(POSIX_FADV_DONTNEED) before each slice"},
}

// selectMedia returns those that are named, or all.
func selectMedia(names []string) ([]medium, error) {
	if len(names) == 0 {
		return media, nil
	}
	var chosen []medium
	for _, name := range names {
		found := false
		for _, m := range media {
			if m.name == name {
				chosen, found = append(chosen, m), true
			}
		}
		if !found {
			var known []string
			for _, m := range media {
				known = append(known, m.name)
			}
			return nil, fmt.Errorf("-medium %s: no such medium; there are %s", name, strings.Join(known, ", "))
		}
	}
	return chosen, nil
}

// check says early what the medium needs.
func (m *medium) check() error {
	if m.loop && os.Geteuid() != 0 {
		return errors.New("medium loop needs root, to make loop devices; the others do not: -medium tmpfs,ext4,uncached")
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(os.TempDir(), &fs); err != nil {
		return fmt.Errorf("%s: %w", os.TempDir(), err)
	}
	if !m.inRAM && fs.Type == unix.TMPFS_MAGIC {
		return fmt.Errorf("medium %s: %s is on tmpfs: set TMPDIR to a folder on a disk", m.name, os.TempDir())
	}
	return nil
}

// newFolder makes a folder for an image of so many bytes.
func (m *medium) newFolder(need int64) (string, error) {
	where := os.TempDir()
	if m.inRAM {
		where = "/dev/shm"
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(where, &fs); err != nil {
		return "", fmt.Errorf("%s: %w", where, err)
	}
	if free := int64(fs.Bavail) * fs.Bsize; free < need {
		return "", fmt.Errorf("medium %s: %s has %d MiB free and the image takes %d MiB: make room, or choose a smaller one with -size", m.name, where, free/mib, need/mib)
	}
	return os.MkdirTemp(where, "flexnbd-bench-")
}
