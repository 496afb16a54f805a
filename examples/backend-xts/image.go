// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/flexnbd/flexnbd/sdk"
	"github.com/flexnbd/flexnbd/sdk/store"
)

// image is a file on its way to become a disk. The lower store has locked it, so
// what is found in it stays.
type image struct {
	lower         store.Store
	name, keyFile string // for messages
}

// sectors returns the cipher for the image, having checked that it is one and
// that k is its key. A new image gets its header here. Nothing else is ever
// written, whatever is wrong.
func (i image) sectors(ctx context.Context, k key) (*sectors, error) {
	if err := i.checkSize(); err != nil {
		return nil, err
	}
	h, err := i.header(ctx, k)
	if err != nil {
		return nil, err
	}
	xtsKey, err := k.derive(h.salt, forData, 64)
	if err != nil {
		return nil, err
	}
	return newSectors(xtsKey)
}

func (i image) checkSize() error {
	switch size := i.lower.Info().Size; {
	case size < headerSize:
		return fmt.Errorf("image %s has %d bytes, which is less than its header of %d: if it is new, make it with truncate -s SIZE, where SIZE is the disk's size and %d; if not, it has been cut off: %w",
			i.name, size, headerSize, headerSize, store.ErrInvalid)
	case size%sectorSize != 0:
		return fmt.Errorf("image %s has %d bytes, which is no multiple of %d: round it up with truncate -s %%%d %s: %w",
			i.name, size, sectorSize, sectorSize, i.name, store.ErrInvalid)
	}
	return nil
}

// header reads the header, or makes it where the image is new, and compares it
// with the key.
func (i image) header(ctx context.Context, k key) (header, error) {
	sector := make([]byte, headerSize)
	if err := i.lower.ReadAt(ctx, sector, 0); err != nil {
		return header{}, err
	}
	h, err := decodeHeader(sector)
	if errors.Is(err, errNoHeader) && allZero(sector) {
		return i.format(ctx, k)
	}
	if err != nil {
		return header{}, fmt.Errorf("image %s %w; it is left as it is: if it is a plain disk, copy it to a new image (see README.md): %w",
			i.name, err, store.ErrInvalid)
	}
	right, err := h.belongsTo(k)
	if err != nil {
		return header{}, err
	}
	if !right {
		return header{}, fmt.Errorf("image %s was made with another key than that in %s, or its header is damaged: nothing was changed; give the key file that it was made with: %w",
			i.name, i.keyFile, store.ErrInvalid)
	}
	return h, nil
}

// format writes the header of a new image, one that is all hole. Zeroes that are
// allocated are no proof that nobody needs them.
func (i image) format(ctx context.Context, k key) (header, error) {
	empty, err := i.allHole(ctx)
	switch {
	case err != nil:
		return header{}, err
	case !empty:
		return header{}, fmt.Errorf("image %s %w, and it is not empty, so it is left as it is: make a new one with truncate, and copy to it what is to be kept (see README.md): %w",
			i.name, errNoHeader, store.ErrInvalid)
	case i.lower.Info().ReadOnly:
		return header{}, fmt.Errorf("image %s is new and has no header yet: serve it once without --read-only: %w", i.name, store.ErrReadOnly)
	}
	h, err := newHeader(k)
	if err != nil {
		return header{}, err
	}
	// Durable before the first byte of data is: without its salt the disk is noise.
	if err := i.lower.WriteAt(ctx, h.encode(), 0, 0); err != nil {
		return header{}, fmt.Errorf("writing the header: %w", err)
	}
	if err := i.lower.Flush(ctx); err != nil {
		return header{}, fmt.Errorf("writing the header: %w", err)
	}
	sdk.Logger().Info("new image: header written", "image", i.name, "key", i.keyFile)
	return h, nil
}

func (i image) allHole(ctx context.Context) (bool, error) {
	for off, size := int64(0), i.lower.Info().Size; off < size; {
		extents, err := i.lower.Extents(ctx, off, size-off)
		if err != nil {
			return false, err
		}
		for _, e := range extents {
			if e.State&store.Hole == 0 {
				return false, nil
			}
			off = e.End()
		}
	}
	return true, nil
}
