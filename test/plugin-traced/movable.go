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

const piece = 1 << 20 // bytes that are copied at a time

// move takes the bytes from the file to this process's memory. What is written to the
// file from now on is lost.
func (m *movable) move(from *fdstore.Store) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	to, ctx := memstore.New(m.info.Size), context.Background()
	for off := int64(0); off < m.info.Size; off += piece {
		p := make([]byte, min(piece, m.info.Size-off))
		if err := from.ReadAt(ctx, p, off); err != nil {
			return err
		}
		if err := to.WriteAt(ctx, p, off, 0); err != nil {
			return err
		}
	}
	m.at = to
	return nil
}

// spoil fills the file, which the bytes have left, with rubbish: whoever still reads
// there gets that. The file is punched first, as [store.Loan.Revoke] asks for: what is
// under way to a client stays as it was.
func spoil(file *fdstore.Store) error {
	size, ctx := file.Info().Size, context.Background()
	if err := file.PunchHole(ctx, 0, size, 0); err != nil {
		return err
	}
	rubbish := bytes.Repeat([]byte{0xee}, piece)
	for off := int64(0); off < size; off += piece {
		if err := file.WriteAt(ctx, rubbish[:min(piece, size-off)], off, 0); err != nil {
			return err
		}
	}
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
