// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"errors"
	"io"
	"os"

	"github.com/flexnbd/flexnbd/sdk"
	"github.com/flexnbd/flexnbd/sdk/memstore"
	"github.com/flexnbd/flexnbd/sdk/store"
)

// loadMemory makes a disk in memory that holds what the image does.
func loadMemory(ctx context.Context, disk sdk.Disk) (_ store.Store, err error) {
	image, err := os.Open(disk.Location)
	if err != nil {
		return nil, err
	}
	defer func() { _ = image.Close() }()
	size, err := image.Seek(0, io.SeekEnd) // of a device, too
	if err != nil {
		return nil, err
	}
	s := memstore.New(size)
	buf := make([]byte, 1<<20)
	for off := int64(0); off < size; {
		n, err := image.ReadAt(buf[:min(int64(len(buf)), size-off)], off)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		if err := s.WriteAt(ctx, buf[:n], off, 0); err != nil {
			return nil, err
		}
		off += int64(n)
	}
	return s, nil
}
