// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"sync"

	"github.com/flexnbd/flexnbd/sdk/fdstore"
	"github.com/flexnbd/flexnbd/sdk/memstore"
	"github.com/flexnbd/flexnbd/sdk/store"
)

// movable is a disk whose bytes can move while it is in use, as those of a plugin
// may that takes its descriptor back.
type movable struct {
	info store.Info

	mu sync.RWMutex // held for writing while the bytes move
	at store.Store
}

// move takes the bytes from the file to this process's memory, and leaves rubbish
// where they were: whoever still uses the file reads that, and what is written there
// is lost.
func (m *movable) move(from *fdstore.Store) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	const piece = 1 << 20
	to, ctx := memstore.New(m.info.Size), context.Background()
	rubbish := bytes.Repeat([]byte{0xee}, piece)
	for off := int64(0); off < m.info.Size; off += piece {
		p := make([]byte, min(piece, m.info.Size-off))
		if err := from.ReadAt(ctx, p, off); err != nil {
			return err
		}
		if err := to.WriteAt(ctx, p, off, 0); err != nil {
			return err
		}
		if err := from.WriteAt(ctx, rubbish[:len(p)], off, 0); err != nil {
			return err
		}
	}
	m.at = to
	return nil
}

// Info is what it was at first; what has changed shows in a crash only.
func (m *movable) Info() store.Info { return m.info }

func (m *movable) ReadAt(ctx context.Context, p []byte, off int64) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.at.ReadAt(ctx, p, off)
}

func (m *movable) WriteAt(ctx context.Context, p []byte, off int64, flags store.Flags) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.at.WriteAt(ctx, p, off, flags)
}

func (m *movable) PunchHole(ctx context.Context, off, length int64, flags store.Flags) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.at.PunchHole(ctx, off, length, flags)
}

func (m *movable) Extents(ctx context.Context, off, length int64) ([]store.Extent, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.at.Extents(ctx, off, length)
}

func (m *movable) Flush(ctx context.Context) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.at.Flush(ctx)
}

func (m *movable) Close() error { return m.at.Close() }
