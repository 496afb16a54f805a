// SPDX-License-Identifier: GPL-3.0-or-later

package compare

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/bench/load"
)

// image is one server's copy of the disk.
type image struct {
	path string   // what the server gets
	open *os.File // the same
}

// newImage makes a disk full of data at path, and a loop device over it if the medium
// says so.
func newImage(ctx context.Context, m medium, path string, size int64) (_ *image, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := fill(ctx, f, size); err != nil {
		return nil, errors.Join(fmt.Errorf("fill %s: %w", path, err), f.Close())
	}
	if !m.loop {
		return &image{path, f}, nil
	}
	device, err := attachLoop(f)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	return &image{device.Name(), device}, nil
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

// close closes the image. A loop device is detached when the last one has closed it.
func (i *image) close() error { return i.open.Close() }
