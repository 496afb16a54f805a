// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"

	"github.com/flexnbd/flexnbd/sdk/store"
)

// diskStore is one image as a disk.
type diskStore struct {
	remote  *remote
	cache   *cache
	streams streams

	block  int64 // bytes
	ahead  int64 // blocks to be ahead of a client that reads in sequence
	within int64 // blocks of one read to be ahead
}

var _ store.Store = (*diskStore)(nil)

func openStore(ctx context.Context, where string, s settings, log logger) (store.Store, error) {
	at, err := parseLocation(where)
	if err != nil {
		return nil, err
	}
	r, err := openRemote(ctx, at, s, log)
	if err != nil {
		return nil, err
	}
	// What is fetched ahead must not drive out what is being read.
	half := s.cache / s.block / 2
	return &diskStore{
		remote: r, cache: newCache(s, r.size, r.readAt),
		block: s.block, ahead: min(s.readahead, half), within: min(int64(s.connections)-1, half),
	}, nil
}

// Info says that everything survives this process: nothing is ever in it alone. For the
// same reason requests may be repeated. See [remote.identity] for what that needs.
func (d *diskStore) Info() store.Info {
	return store.Info{
		Size:           d.remote.size,
		MinBlock:       1,
		PreferredBlock: uint32(d.block), // at most 16 MiB
		Unaligned:      store.HandlesUnaligned,
		ReadOnly:       true,
		Identity:       d.remote.identity(),
		Survives:       store.SurvivesAcknowledged,
		Replayable:     true,
	}
}

// ReadAt copies from one block after the other. The next ones are on their way
// meanwhile: those of this read, and some more for a client that reads in sequence.
func (d *diskStore) ReadAt(ctx context.Context, p []byte, off int64) error {
	if len(p) == 0 {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	first, last := off/d.block, (off+int64(len(p))-1)/d.block
	horizon := last
	if d.ahead > 0 && d.streams.goesOn(first, last) {
		horizon = min(last+d.ahead, (d.remote.size-1)/d.block)
	}
	for number := first; number <= last; number++ {
		at := off % d.block
		n := min(int64(len(p)), d.block-at)
		err := d.cache.with(ctx, number,
			func() { d.prefetch(number, last, horizon) },
			func(data []byte) { copy(p[:n], data[at:]) })
		if err != nil {
			return err
		}
		p, off = p[n:], off+n
	}
	return nil
}

// prefetch begins with what will be wanted after block number.
func (d *diskStore) prefetch(number, last, horizon int64) {
	end := min(number+d.within, last)
	if end == last {
		end = horizon
	}
	for next := number + 1; next <= end; next++ {
		d.cache.prefetch(next)
	}
}

// WriteAt refuses.
func (d *diskStore) WriteAt(context.Context, []byte, int64, store.Flags) error {
	return d.refuse()
}

// PunchHole refuses.
func (d *diskStore) PunchHole(context.Context, int64, int64, store.Flags) error {
	return d.refuse()
}

func (d *diskStore) refuse() error {
	return fmt.Errorf("image %s is only read, since HTTP can't change parts of it: %w", d.remote.at, store.ErrReadOnly)
}

// Extents knows nothing: HTTP has no holes.
func (d *diskStore) Extents(ctx context.Context, off, length int64) ([]store.Extent, error) {
	return store.AllData(off, length), ctx.Err()
}

// Flush has nothing to do.
func (d *diskStore) Flush(ctx context.Context) error { return ctx.Err() }

// Close ends what was fetched ahead, waits for it, and hangs up.
func (d *diskStore) Close() error {
	d.cache.close()
	d.remote.close()
	return nil
}
