// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"fmt"
	"hash/crc32"
	"os"
	"sync/atomic"

	"github.com/flexnbd/flexnbd/sdk"
	"github.com/flexnbd/flexnbd/sdk/fdstore"
	"github.com/flexnbd/flexnbd/sdk/store"
)

// block is what has a checksum, in bytes.
const block = 4096

// checksummed is a file whose blocks are compared with their checksums. What was
// written by others before is taken as it is found.
type checksummed struct {
	// Not embedded, or the descriptor would be lent and nothing computed.
	file *fdstore.Store
	info store.Info
	sums []atomic.Uint64 // of each block: 0 is unknown, or 1<<32 and the CRC-32C
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func openChecksum(disk sdk.Disk) (store.Store, error) {
	f, err := os.OpenFile(disk.Location, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	file, err := fdstore.New(f, fdstore.Options{})
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	c := &checksummed{file: file, info: file.Info()}
	c.info.MinBlock, c.info.PreferredBlock, c.info.Unaligned = block, max(c.info.PreferredBlock, block), store.RefusesUnaligned
	c.info.CanDiscard = false
	c.sums = make([]atomic.Uint64, c.info.Size/block)
	return c, nil
}

func (c *checksummed) Info() store.Info { return c.info }

func (c *checksummed) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := c.file.ReadAt(ctx, p, off); err != nil {
		return err
	}
	for i := 0; i < len(p); i += block {
		sum := &c.sums[(off+int64(i))/block]
		got := 1<<32 | uint64(crc32.Checksum(p[i:i+block], castagnoli))
		// Requests that overlap are not ordered, and each is right: only what nobody
		// wrote meanwhile can be wrong, so a difference is read again.
		if want := sum.Load(); want != got && !sum.CompareAndSwap(0, got) {
			if err := c.again(ctx, p[i:i+block], off+int64(i)); err != nil {
				return err
			}
		}
	}
	return nil
}

// again reads a block that did not have its checksum once more.
func (c *checksummed) again(ctx context.Context, p []byte, off int64) error {
	if err := c.file.ReadAt(ctx, p, off); err != nil {
		return err
	}
	want, got := c.sums[off/block].Load(), 1<<32|uint64(crc32.Checksum(p, castagnoli))
	if want != got {
		return fmt.Errorf("the block at %d has checksum %#x, not %#x: %w", off, uint32(got), uint32(want), store.ErrIO)
	}
	return nil
}

func (c *checksummed) WriteAt(ctx context.Context, p []byte, off int64, flags store.Flags) error {
	for i := 0; i < len(p); i += block {
		c.sums[(off+int64(i))/block].Store(1<<32 | uint64(crc32.Checksum(p[i:i+block], castagnoli)))
	}
	return c.file.WriteAt(ctx, p, off, flags)
}

func (c *checksummed) PunchHole(ctx context.Context, off, length int64, flags store.Flags) error {
	for i := off / block; i < (off+length)/block; i++ {
		c.sums[i].Store(0)
	}
	return c.file.PunchHole(ctx, off, length, flags&^store.Discard)
}

func (c *checksummed) Extents(ctx context.Context, off, length int64) ([]store.Extent, error) {
	return c.file.Extents(ctx, off, length)
}

func (c *checksummed) Flush(ctx context.Context) error { return c.file.Flush(ctx) }

func (c *checksummed) Close() error { return c.file.Close() }
