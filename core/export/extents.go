// SPDX-License-Identifier: GPL-3.0-or-later

package export

import (
	"context"
	"fmt"

	"github.com/flexnbd/flexnbd/sdk/store"
)

// maxExtents is the most extents that a store may return at a time, the same
// as the protocol's limit for a block status reply.
const maxExtents = 1 << 20

// Extents returns the store's extent map, as [store.Store.Extents] does, after
// checking that it is one. It does not pass the gate: a migration asks while
// the gate is held. A range that is empty or not inside the disk is ErrInvalid.
func (e *Export) Extents(ctx context.Context, off, length int64) ([]store.Extent, error) {
	if off < 0 || length <= 0 || off > e.info.Size || length > e.info.Size-off {
		return nil, fmt.Errorf("extents of %d bytes at %d were asked for on a disk of %d bytes: %w", length, off, e.info.Size, store.ErrInvalid)
	}
	if !e.info.CanExtents {
		return store.AllData(off, length), nil
	}
	extents, err := e.store.Extents(ctx, off, length)
	if err != nil {
		return nil, err
	}
	if err := checkExtents(extents, off, length); err != nil {
		return nil, fmt.Errorf("the backend returned a broken extent map for %d bytes at %d, which is a fault in the backend: %w: %w", length, off, err, store.ErrIO)
	}
	return extents, nil
}

// ReadsAsZeroes says whether the whole disk is known to read as zeroes, by its
// extent map.
func (e *Export) ReadsAsZeroes(ctx context.Context) (bool, error) {
	for off := int64(0); off < e.info.Size; {
		extents, err := e.Extents(ctx, off, e.info.Size-off)
		if err != nil {
			return false, err
		}
		for _, x := range extents {
			if x.State&store.Zero == 0 {
				return false, nil
			}
			off += x.Length
		}
	}
	return true, nil
}

// checkExtents holds an extent map against the rules of [store.Store.Extents].
func checkExtents(extents []store.Extent, off, length int64) error {
	switch {
	case len(extents) == 0:
		return fmt.Errorf("it has no extent, but at least one must cover the offset")
	case len(extents) > maxExtents:
		return fmt.Errorf("it has %d extents, more than %d", len(extents), maxExtents)
	}
	next, end := off, off+length
	for i, x := range extents {
		switch {
		case x.Offset != next:
			return fmt.Errorf("extent %d starts at %d and not at %d, where the one before it ends", i, x.Offset, next)
		case x.Length <= 0:
			return fmt.Errorf("extent %d has length %d", i, x.Length)
		case x.Length > end-next:
			return fmt.Errorf("extent %d of %d bytes at %d reaches past the range's end at %d", i, x.Length, x.Offset, end)
		case x.State&^(store.Hole|store.Zero) != 0:
			return fmt.Errorf("extent %d has the unknown state %d", i, x.State)
		}
		next += x.Length
	}
	return nil
}
