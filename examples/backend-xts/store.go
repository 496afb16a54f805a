// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os"
	"sync"

	"github.com/flexnbd/flexnbd/sdk/store"
)

// maxPiece is the most that is encrypted or decrypted at once, in bytes: what a
// write needs for itself, and how soon a context that ends is noticed.
const maxPiece = 256 << 10

// Store is the disk in an image, decrypted. Its errors are those of the lower
// store: the offsets in them are the file's.
//
// lower is a field and not embedded on purpose. fdstore's Store is a
// [store.Lender], and to embed it would be to lend the file as well: clients
// would be sent ciphertext.
type Store struct {
	lower   store.Leaser // the file, header and all
	info    store.Info
	sectors *sectors
	scratch sync.Pool // of *[maxPiece]byte
}

var _ store.Leaser = (*Store)(nil)

// newStore takes a lower store of at least a header and whole sectors, and owns it.
func newStore(lower store.Leaser, s *sectors) *Store {
	info := lower.Info()
	// What the file can do, the disk can: a punch of whole sectors, whatever its
	// flags, is one of the file, and a sector is durable when its ciphertext is.
	info.Size -= headerSize
	info.MinBlock = sectorSize
	info.PreferredBlock = max(info.PreferredBlock, sectorSize)
	info.Unaligned = store.RefusesUnaligned // the SDK does the read-modify-write
	// To discard may be to do nothing. It would be safe, but what has been
	// deleted had better be gone.
	info.CanDiscard = false
	return &Store{
		lower:   lower,
		info:    info,
		sectors: s,
		scratch: sync.Pool{New: func() any { return new([maxPiece]byte) }},
	}
}

// Info is the lower store's, for whole sectors behind the header.
func (s *Store) Info() store.Info { return s.info }

// ReadAt reads ciphertext into p and decrypts it there: p is the store's own
// until ReadAt returns.
func (s *Store) ReadAt(ctx context.Context, p []byte, off int64) error {
	for len(p) > 0 {
		piece := p[:min(len(p), maxPiece)]
		if err := s.lower.ReadAt(ctx, piece, headerSize+off); err != nil {
			return err
		}
		s.sectors.decrypt(piece, sectorAt(off))
		p, off = p[len(piece):], off+int64(len(piece))
	}
	return nil
}

// WriteAt encrypts to memory of its own, since a write's buffer must not be
// changed, not even for a moment. FUA goes with each piece.
func (s *Store) WriteAt(ctx context.Context, p []byte, off int64, flags store.Flags) error {
	scratch := s.scratch.Get().(*[maxPiece]byte)
	defer s.scratch.Put(scratch)
	for len(p) > 0 {
		piece := scratch[:min(len(p), maxPiece)]
		s.sectors.encrypt(piece, p[:len(piece)], sectorAt(off))
		if err := s.lower.WriteAt(ctx, piece, headerSize+off, flags); err != nil {
			return err
		}
		p, off = p[len(piece):], off+int64(len(piece))
	}
	return nil
}

// PunchHole punches the file, whose zeroes read as zeroes (see [sectors]). The
// lower store does not get to see Discard, since it may take it as leave to do
// nothing, and this one has promised zeroes.
func (s *Store) PunchHole(ctx context.Context, off, length int64, flags store.Flags) error {
	return s.lower.PunchHole(ctx, headerSize+off, length, flags&^store.Discard)
}

// Extents are the file's: what is zero there is zero here.
func (s *Store) Extents(ctx context.Context, off, length int64) ([]store.Extent, error) {
	extents, err := s.lower.Extents(ctx, headerSize+off, length)
	for i := range extents {
		extents[i].Offset -= headerSize
	}
	return extents, err
}

// Flush flushes the file: there is nothing in memory here.
func (s *Store) Flush(ctx context.Context) error { return s.lower.Flush(ctx) }

// Close closes the file.
func (s *Store) Close() error { return s.lower.Close() }

// Lease implements [store.Leaser]: the lock is on the file. It goes on to the
// process that replaces this one after a crash.
func (s *Store) Lease() *os.File { return s.lower.Lease() }

// sectorAt is the number of the sector that begins at off.
func sectorAt(off int64) uint64 { return uint64(off) / sectorSize }
