// SPDX-License-Identifier: GPL-3.0-or-later

package compare

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/bench/load"
)

// image is the disk that all servers serve, one at a time. It is the same one for all
// of them since its place in memory matters: see docs/performance.md.
type image struct {
	medium
	folder string   // has the image's file, and those of the servers
	path   string   // what a server gets
	open   *os.File // the same
}

// newImage makes a disk full of data on the medium, all of it in the page cache.
func newImage(ctx context.Context, m medium, size int64) (*image, error) {
	folder, err := m.newFolder(size)
	if err != nil {
		return nil, err
	}
	i := &image{medium: m, folder: folder, path: filepath.Join(folder, "disk.img")}
	if err := i.create(ctx, size); err != nil {
		return nil, errors.Join(err, i.close())
	}
	return i, nil
}

// create makes the file, and a loop device over it if the medium says so.
func (i *image) create(ctx context.Context, size int64) (err error) {
	i.open, err = os.OpenFile(i.path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := fill(ctx, i.open, size); err != nil {
		return fmt.Errorf("fill %s: %w", i.path, err)
	}
	if i.loop {
		device, err := attachLoop(i.open)
		if err != nil {
			return err
		}
		if err := i.open.Close(); err != nil {
			return errors.Join(err, device.Close())
		}
		i.open, i.path = device, device.Name()
	}
	return i.warm()
}

// fill writes what the load expects to read.
func fill(ctx context.Context, f *os.File, size int64) error {
	chunk := make([]byte, mib)
	for off := int64(0); off < size; off += mib {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		chunk = chunk[:min(mib, size-off)]
		load.Fill(chunk, uint64(off))
		if _, err := f.WriteAt(chunk, off); err != nil {
			return err
		}
	}
	return f.Sync()
}

// settle writes dirty pages to the disk, so that they don't slow down who is next.
func (i *image) settle() error { return i.open.Sync() }

// drop takes the image out of the page cache. That needs no root, unlike
// /proc/sys/vm/drop_caches, and leaves the servers' own files there.
func (i *image) drop() error {
	if err := i.open.Sync(); err != nil { // dirty pages are not dropped
		return err
	}
	if err := unix.Fadvise(int(i.open.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return fmt.Errorf("drop the pages of %s: %w", i.path, err)
	}
	return nil
}

// warm reads the image, so that its pages are in the cache.
func (i *image) warm() error {
	chunk := make([]byte, mib)
	for off := int64(0); ; {
		n, err := i.open.ReadAt(chunk, off)
		if n == 0 {
			if off > 0 {
				return nil
			}
			return err
		}
		off += int64(n)
	}
}

// close removes the image and its folder. A loop device is detached when the last one
// has closed it.
func (i *image) close() error {
	return errors.Join(i.open.Close(), os.RemoveAll(i.folder))
}
