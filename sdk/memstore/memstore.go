// SPDX-License-Identifier: Apache-2.0

package memstore

import (
	"context"
	"sync"

	"github.com/flexnbd/flexnbd/sdk/store"
)

const (
	pageSize = 4 << 10

	// extentReach is how many bytes one call to Extents looks at, so that
	// neither its answer nor the time under the lock grows with the disk.
	extentReach = 64 << 20
)

// Store is a disk in memory. Use [New] to make one.
type Store struct {
	size int64

	mu    sync.RWMutex
	pages map[int64]*[pageSize]byte // by offset / pageSize; a missing page is a hole
}

// New returns a disk of size bytes, 0 to [store.MaxSize], that reads as zeroes
// and takes next to no memory yet.
func New(size int64) *Store {
	return &Store{size: size, pages: make(map[int64]*[pageSize]byte)}
}

// Info says that nothing survives the process. FUA is Native because there is
// no power cut that a write in memory could survive or not: nothing is left to
// do for it.
func (s *Store) Info() store.Info {
	return store.Info{
		Size:             s.size,
		MinBlock:         1,
		PreferredBlock:   pageSize,
		Unaligned:        store.HandlesUnaligned,
		FUA:              store.Native,
		CanPunch:         true,
		CanKeepAllocated: true,
		CanFast:          true,
		CanExtents:       true,
		Survives:         store.SurvivesNothing,
		Replayable:       true,
	}
}

// ReadAt copies the pages there are and fills in zeroes for those there are not.
func (s *Store) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	for len(p) > 0 {
		at := off % pageSize
		n := min(int64(len(p)), pageSize-at)
		if page := s.pages[off/pageSize]; page != nil {
			copy(p[:n], page[at:])
		} else {
			clear(p[:n])
		}
		p, off = p[n:], off+n
	}
	return nil
}

// WriteAt copies p, so that the caller may reuse it at once.
func (s *Store) WriteAt(ctx context.Context, p []byte, off int64, _ store.Flags) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(p) > 0 {
		n := copy(s.allocate(off)[off%pageSize:], p)
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// PunchHole frees the pages that the range covers wholly and clears its part of
// the others. A page behind the end of the disk's last byte counts as covered.
func (s *Store) PunchHole(ctx context.Context, off, length int64, flags store.Flags) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	keep := flags&store.KeepAllocated != 0
	if keep && flags&store.Fast != 0 {
		return store.ErrNotSupported // clearing pages is what a write does too
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for end := off + length; off < end; {
		at := off % pageSize
		n := min(end-off, pageSize-at)
		page := s.pages[off/pageSize]
		switch {
		case keep:
			clear(s.allocate(off)[at : at+n])
		case at == 0 && (n == pageSize || end == s.size):
			delete(s.pages, off/pageSize)
		case page != nil:
			clear(page[at : at+n])
		}
		off += n
	}
	return nil
}

// Extents reports pages as data and their absence as holes that read as zeroes.
func (s *Store) Extents(ctx context.Context, off, length int64) ([]store.Extent, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	var extents []store.Extent
	for end := off + min(length, extentReach); off < end; {
		n := min(end-off, pageSize-off%pageSize)
		state := store.Hole | store.Zero
		if s.pages[off/pageSize] != nil {
			state = store.Data
		}
		if last := len(extents) - 1; last >= 0 && extents[last].State == state {
			extents[last].Length += n
		} else {
			extents = append(extents, store.Extent{Offset: off, Length: n, State: state})
		}
		off += n
	}
	return extents, nil
}

// Flush has nothing to do: there is no power cut to survive.
func (s *Store) Flush(ctx context.Context) error { return ctx.Err() }

// Close frees the disk's memory.
func (s *Store) Close() error {
	s.pages = nil
	return nil
}

// allocate returns the page that holds off, made if need be. The caller holds
// the lock.
func (s *Store) allocate(off int64) *[pageSize]byte {
	page := s.pages[off/pageSize]
	if page == nil {
		page = new([pageSize]byte)
		s.pages[off/pageSize] = page
	}
	return page
}
