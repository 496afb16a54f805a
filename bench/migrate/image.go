// SPDX-License-Identifier: GPL-3.0-or-later

package migrate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/flexnbd/flexnbd/bench/load"
)

// image is a disk in a folder of its own, where flexnbd puts its records.
type image struct {
	path string
	size int64
}

// layout says what is on a disk: data of a total length, in pieces at even distances
// that are not quite even, so that they share nothing with the copiers' own sizes.
type layout struct {
	size, data, piece int64 // in bytes, multiples of load.PageSize
}

func dense(size int64) layout { return layout{size, size, mib} }

// scattered is 256 MiB of data, 256 KiB at a time.
func scattered(size int64) layout { return layout{size, 256 * mib, 256 * kib} }

// offsets are where the pieces begin. They don't overlap, and the last one ends within
// the disk.
func (l layout) offsets() []int64 {
	n := l.data / l.piece
	stride := l.size / n
	slack := (stride - l.piece) / load.PageSize // pages by which a piece may be moved
	list := make([]int64, n)
	for i := range list {
		moved := int64(0)
		if slack > 0 {
			moved = int64(i) * 7919 % (slack + 1) // a prime, so that all distances come
		}
		list[i] = (int64(i)*stride/load.PageSize + moved) * load.PageSize
	}
	return list
}

// newImage makes a disk in the folder, durably, so that no dirty page of it is
// somebody's load.
func newImage(ctx context.Context, dir string, l layout) (i image, err error) {
	i, err = emptyImage(dir, l.size)
	if err != nil {
		return i, err
	}
	f, err := os.OpenFile(i.path, os.O_RDWR, 0)
	if err != nil {
		return i, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	chunk := make([]byte, l.piece)
	for _, off := range l.offsets() {
		if ctx.Err() != nil {
			return i, context.Cause(ctx)
		}
		load.Fill(chunk, uint64(off))
		if _, err := f.WriteAt(chunk, off); err != nil {
			return i, fmt.Errorf("filling %s: %w", i.path, err)
		}
	}
	return i, f.Sync()
}

// emptyImage makes a disk that is one hole, in place of whatever the folder has.
func emptyImage(dir string, size int64) (image, error) {
	i := image{filepath.Join(dir, "disk.img"), size}
	if err := os.RemoveAll(dir); err != nil {
		return i, err
	}
	return i, errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(i.path, nil, 0o600), os.Truncate(i.path, size))
}

// forget removes what servers have left beside the image, such as the record that it
// was given away.
func (i image) forget() error {
	entries, err := os.ReadDir(filepath.Dir(i.path))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), filepath.Base(i.path)+".") {
			if err := os.Remove(filepath.Join(filepath.Dir(i.path), e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// allocated is how many bytes of it the file system keeps.
func (i image) allocated() (int64, error) {
	info, err := os.Stat(i.path)
	if err != nil {
		return 0, err
	}
	return info.Sys().(*syscall.Stat_t).Blocks * 512, nil
}
