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
	size   int64    // in bytes, as piece is
	piece  int64    // what lies in one piece in the page cache; see layOut
}

// newImage makes a disk full of data on the medium.
func newImage(ctx context.Context, m medium, size int64) (*image, error) {
	folder, err := m.newFolder(size)
	if err != nil {
		return nil, err
	}
	i := &image{medium: m, folder: folder, size: size, path: filepath.Join(folder, "disk.img")}
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
	if err := i.open.Truncate(size); err != nil {
		return err
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
	return i.layOut(ctx, mib)
}

// layOut puts the image into the page cache in pieces, if it does not lie there in
// such pieces already.
//
// Linux keeps what was written or read in long pieces in folios as long (ext4, block
// devices), and a write to a part of one has it look at every block in it: with folios
// of 1 MiB a random write of 4 KiB takes ext4 20 to 40 us, which no server can do
// anything about. So the image lies in the cache as the load itself would have put it
// there.
func (i *image) layOut(ctx context.Context, piece int64) error {
	if i.piece == piece {
		return nil
	}
	if err := i.drop(); err != nil {
		return err
	}
	chunk := make([]byte, piece)
	for off := int64(0); off < i.size; off += piece {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		chunk = chunk[:min(piece, i.size-off)]
		load.Fill(chunk, uint64(off))
		if _, err := i.open.WriteAt(chunk, off); err != nil {
			return fmt.Errorf("fill %s: %w", i.path, err)
		}
	}
	i.piece = piece
	return i.settle()
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

// close removes the image and its folder. A loop device is detached when the last one
// has closed it.
func (i *image) close() error {
	return errors.Join(i.open.Close(), os.RemoveAll(i.folder))
}
