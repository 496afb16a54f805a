// SPDX-License-Identifier: GPL-3.0-or-later

package migrate

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// mediumNames are where images may be: in memory, and on a disk.
func mediumNames() []string { return []string{"tmpfs", "ext4"} }

// folder is where the images of one figure are, on a medium, and what the servers
// leave beside them.
type folder struct {
	medium string
	path   string
}

func newFolder(medium string) (*folder, error) {
	where := "/dev/shm"
	if medium != "tmpfs" {
		where = os.TempDir()
		var fs unix.Statfs_t
		if err := unix.Statfs(where, &fs); err != nil {
			return nil, fmt.Errorf("%s: %w", where, err)
		}
		if fs.Type == unix.TMPFS_MAGIC {
			return nil, fmt.Errorf("medium %s: %s is on tmpfs: set TMPDIR to a folder on a disk, or choose -medium tmpfs", medium, where)
		}
	}
	path, err := os.MkdirTemp(where, "flexnbd-bench-migrate-")
	return &folder{medium, path}, err
}

// room checks that so many bytes are free.
func (f *folder) room(need int64) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(f.path, &fs); err != nil {
		return fmt.Errorf("%s: %w", f.path, err)
	}
	if free := int64(fs.Bavail) * fs.Bsize; free < need {
		return fmt.Errorf("%s has %d MiB free, and the images take %d MiB", f.path, free/mib, need/mib)
	}
	return nil
}

// below makes a folder for one image.
func (f *folder) below(name string) (string, error) {
	path := filepath.Join(f.path, name)
	return path, os.MkdirAll(path, 0o755)
}

func (f *folder) remove() error { return os.RemoveAll(f.path) }
