// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"bytes"
	"context"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/flexnbd/flexnbd/sdk/memstore"
	"github.com/flexnbd/flexnbd/sdk/store"
)

// broken is a memstore with one method, or more, replaced.
type broken struct {
	*memstore.Store
	info    func(store.Info) store.Info
	read    func(s *memstore.Store, ctx context.Context, p []byte, off int64) error
	write   func(s *memstore.Store, ctx context.Context, p []byte, off int64, flags store.Flags) error
	punch   func(s *memstore.Store, ctx context.Context, off, length int64, flags store.Flags) error
	extents func(s *memstore.Store, ctx context.Context, off, length int64) ([]store.Extent, error)
	flush   func(s *memstore.Store, ctx context.Context) error
	close   func(s *memstore.Store) error
}

func (b *broken) Info() store.Info {
	if b.info != nil {
		return b.info(b.Store.Info())
	}
	return b.Store.Info()
}

func (b *broken) ReadAt(ctx context.Context, p []byte, off int64) error {
	if b.read != nil {
		return b.read(b.Store, ctx, p, off)
	}
	return b.Store.ReadAt(ctx, p, off)
}

func (b *broken) WriteAt(ctx context.Context, p []byte, off int64, flags store.Flags) error {
	if b.write != nil {
		return b.write(b.Store, ctx, p, off, flags)
	}
	return b.Store.WriteAt(ctx, p, off, flags)
}

func (b *broken) PunchHole(ctx context.Context, off, length int64, flags store.Flags) error {
	if b.punch != nil {
		return b.punch(b.Store, ctx, off, length, flags)
	}
	return b.Store.PunchHole(ctx, off, length, flags)
}

func (b *broken) Extents(ctx context.Context, off, length int64) ([]store.Extent, error) {
	if b.extents != nil {
		return b.extents(b.Store, ctx, off, length)
	}
	return b.Store.Extents(ctx, off, length)
}

func (b *broken) Flush(ctx context.Context) error {
	if b.flush != nil {
		return b.flush(b.Store, ctx)
	}
	return b.Store.Flush(ctx)
}

func (b *broken) Close() error {
	if b.close != nil {
		return b.close(b.Store)
	}
	return b.Store.Close()
}

// Shorter names for the many literals below.
type (
	mem   = *memstore.Store
	ctxt  = context.Context
	flags = store.Flags
)

// breakages are ways to get the contract wrong that have been seen in real
// stores, each with the clause that has to notice.
var breakages = []struct {
	clause, does string
	make         func() *broken
}{
	{"InfoIsPossibleAndDoesNotChange", "has blocks of 3 bytes", func() *broken {
		return &broken{info: func(i store.Info) store.Info { i.MinBlock = 3; return i }}
	}},
	{"InfoIsPossibleAndDoesNotChange", "says more after its first flush", func() *broken {
		flushed := false
		return &broken{
			flush: func(mem, ctxt) error { flushed = true; return nil },
			info: func(i store.Info) store.Info {
				if !flushed {
					i.FUA = store.None
				}
				return i
			}}
	}},
	{"CloseSucceeds", "cannot be closed", func() *broken {
		return &broken{close: func(mem) error { return syscall.EBADF }}
	}},
	{"FreshDiskReadsZeroIntoWholeBuffer", "leaves the buffer alone where there is a hole", func() *broken {
		return &broken{read: func(s mem, ctx ctxt, p []byte, off int64) error {
			if e, err := s.Extents(ctx, off, int64(len(p))); err != nil || len(e) == 1 && e[0].State&store.Hole != 0 {
				return err
			}
			return s.ReadAt(ctx, p, off)
		}}
	}},
	{"WritesReadBack", "writes at most 64 KiB", func() *broken {
		return &broken{write: func(s mem, ctx ctxt, p []byte, off int64, f flags) error {
			return s.WriteAt(ctx, p[:min(len(p), 64<<10)], off, f)
		}}
	}},
	{"WriteChangesItsRangeOnly", "rounds a write up to sectors with zeroes", func() *broken {
		return &broken{write: func(s mem, ctx ctxt, p []byte, off int64, f flags) error {
			rounded := min(roundUp(int64(len(p)), 512), s.Info().Size-off)
			return s.WriteAt(ctx, append(bytes.Clone(p), make([]byte, rounded-int64(len(p)))...), off, f)
		}}
	}},
	{"ZeroLengthRequestsDoNothing", "refuses requests of length 0", func() *broken {
		return &broken{write: func(s mem, ctx ctxt, p []byte, off int64, f flags) error {
			if len(p) == 0 {
				return store.ErrInvalid
			}
			return s.WriteAt(ctx, p, off, f)
		}}
	}},
	{"EveryByteOfAnOddSizeIsThere", "loses the bytes after the last whole sector", func() *broken {
		return &broken{read: func(s mem, ctx ctxt, p []byte, off int64) error {
			if err := s.ReadAt(ctx, p, off); err != nil {
				return err
			}
			if sectors := s.Info().Size &^ 511; off+int64(len(p)) > sectors {
				clear(p[max(sectors-off, 0):])
			}
			return nil
		}}
	}},
	{"DiskOfNoBytesWorks", "cannot flush an empty disk", func() *broken {
		return &broken{flush: func(s mem, ctx ctxt) error {
			if s.Info().Size == 0 {
				return store.ErrInvalid
			}
			return nil
		}}
	}},
	{"LargeRequestsPassWhole", "takes 32 MiB at most", func() *broken {
		return &broken{write: func(s mem, ctx ctxt, p []byte, off int64, f flags) error {
			return s.WriteAt(ctx, p[:min(len(p), 32<<20)], off, f)
		}}
	}},
	{"UnalignedRequestsAreHandled", "zeroes the rest of the first block of an unaligned write", func() *broken {
		return &broken{write: func(s mem, ctx ctxt, p []byte, off int64, f flags) error {
			if err := s.PunchHole(ctx, off&^511, off&511, 0); err != nil {
				return err
			}
			return s.WriteAt(ctx, p, off, f)
		}}
	}},
	{"PunchedRangeReadsZero", "ignores punches", func() *broken {
		return &broken{punch: func(mem, ctxt, int64, int64, flags) error { return nil }}
	}},
	{"PunchedRangeReadsZero", "punches whole blocks only", func() *broken {
		return &broken{punch: func(s mem, ctx ctxt, off, length int64, f flags) error {
			start, end := roundUp(off, 4096), (off+length)&^4095
			if start >= end {
				return nil
			}
			return s.PunchHole(ctx, start, end-start, f)
		}}
	}},
	{"PunchChangesItsRangeOnly", "punches the blocks around the range", func() *broken {
		return &broken{punch: func(s mem, ctx ctxt, off, length int64, f flags) error {
			start, end := off&^4095, min(roundUp(off+length, 4096), s.Info().Size)
			return s.PunchHole(ctx, start, end-start, f)
		}}
	}},
	{"FastPunchSucceedsOrChangesNothing", "punches half before it refuses Fast", func() *broken {
		return &broken{punch: func(s mem, ctx ctxt, off, length int64, f flags) error {
			if f&store.Fast == 0 {
				return s.PunchHole(ctx, off, length, f)
			}
			if err := s.PunchHole(ctx, off, length/2, 0); err != nil {
				return err
			}
			return store.ErrNotSupported
		}}
	}},
	{"FastPunchSucceedsOrChangesNothing", "refuses Fast with EINVAL", func() *broken {
		return &broken{punch: func(s mem, ctx ctxt, off, length int64, f flags) error {
			if f&store.Fast != 0 {
				return store.ErrInvalid
			}
			return s.PunchHole(ctx, off, length, f)
		}}
	}},
	{"KeepAllocatedPunchIsHonouredIfAnnounced", "announces KeepAllocated and refuses it", func() *broken {
		return &broken{punch: func(s mem, ctx ctxt, off, length int64, f flags) error {
			if f&store.KeepAllocated != 0 {
				return store.ErrNotSupported
			}
			return s.PunchHole(ctx, off, length, f)
		}}
	}},
	{"DiscardChangesItsRangeOnly", "discards the blocks around the range", func() *broken {
		return &broken{punch: func(s mem, ctx ctxt, off, length int64, f flags) error {
			if f&store.Discard == 0 {
				return s.PunchHole(ctx, off, length, f)
			}
			start, end := off&^511, min(roundUp(off+length, 512), s.Info().Size)
			return s.PunchHole(ctx, start, end-start, 0)
		}}
	}},
	{"DiscardReadsZeroUnlessAnnounced", "ignores discards and does not say so", func() *broken {
		return &broken{punch: func(s mem, ctx ctxt, off, length int64, f flags) error {
			if f&store.Discard != 0 {
				return nil
			}
			return s.PunchHole(ctx, off, length, f)
		}}
	}},
	{"ExtentsAreContiguousAndInRange", "starts at a block instead of at the offset", func() *broken {
		return &broken{extents: func(s mem, ctx ctxt, off, length int64) ([]store.Extent, error) {
			return s.Extents(ctx, off&^511, length)
		}}
	}},
	{"ExtentsAreContiguousAndInRange", "reaches behind the range", func() *broken {
		return &broken{extents: func(s mem, ctx ctxt, off, length int64) ([]store.Extent, error) {
			return s.Extents(ctx, off, roundUp(length, 4096))
		}}
	}},
	{"ExtentsAreContiguousAndInRange", "leaves holes out", func() *broken {
		return &broken{extents: func(s mem, ctx ctxt, off, length int64) ([]store.Extent, error) {
			all, err := s.Extents(ctx, off, length)
			var data []store.Extent
			for _, e := range all {
				if e.State&store.Hole == 0 {
					data = append(data, e)
				}
			}
			return data, err
		}}
	}},
	{"ExtentsCoverTheDiskInTurns", "ends its map with an extent of length 0", func() *broken {
		return &broken{extents: func(s mem, ctx ctxt, off, length int64) ([]store.Extent, error) {
			e, err := s.Extents(ctx, off, length)
			return append(e, store.Extent{Offset: off + length}), err
		}}
	}},
	{"ZeroExtentsReadAsZero", "says zero of the second half", func() *broken {
		return &broken{extents: func(s mem, _ ctxt, off, length int64) ([]store.Extent, error) {
			half := s.Info().Size / 2
			if off >= half {
				return []store.Extent{{Offset: off, Length: length, State: store.Zero}}, nil
			}
			return store.AllData(off, min(length, half-off)), nil
		}}
	}},
	{"ZeroExtentsReadAsZero", "calls discarded data zero", func() *broken {
		var discarded span
		return &broken{
			punch: func(s mem, ctx ctxt, off, length int64, f flags) error {
				if f&store.Discard != 0 {
					discarded = span{off, length}
					return nil
				}
				return s.PunchHole(ctx, off, length, f)
			},
			extents: func(_ mem, _ ctxt, off, length int64) ([]store.Extent, error) {
				if discarded.off <= off && off < discarded.end() {
					return []store.Extent{{Offset: off, Length: min(length, discarded.end()-off), State: store.Zero}}, nil
				}
				return store.AllData(off, length), nil
			}}
	}},
	{"ExtentsAreAllDataUnlessAnnounced", "knows holes but does not say so", func() *broken {
		return &broken{info: func(i store.Info) store.Info { i.CanExtents = false; return i }}
	}},
	{"FlushSucceedsAndKeepsData", "cannot flush", func() *broken {
		return &broken{flush: func(mem, ctxt) error { return store.ErrNotSupported }}
	}},
	{"FlushSucceedsAndKeepsData", "throws its cache away", func() *broken {
		return &broken{flush: func(s mem, ctx ctxt) error { return s.PunchHole(ctx, 0, s.Info().Size, 0) }}
	}},
	{"FUAIsAcceptedIfAnnounced", "announces FUA and refuses it", func() *broken {
		return &broken{write: func(s mem, ctx ctxt, p []byte, off int64, f flags) error {
			if f&store.FUA != 0 {
				return store.ErrNotSupported
			}
			return s.WriteAt(ctx, p, off, f)
		}}
	}},
	{"BuffersAreNotKept", "writes back later, from the caller's buffer", func() *broken {
		var dirty func() error
		settle := func() error {
			if dirty == nil {
				return nil
			}
			write := dirty
			dirty = nil
			return write()
		}
		return &broken{
			write: func(s mem, ctx ctxt, p []byte, off int64, f flags) error {
				if err := settle(); err != nil {
					return err
				}
				dirty = func() error { return s.WriteAt(ctx, p, off, f) }
				return nil
			},
			read: func(s mem, ctx ctxt, p []byte, off int64) error {
				if err := settle(); err != nil {
					return err
				}
				return s.ReadAt(ctx, p, off)
			}}
	}},
	{"BuffersAreNotKept", "keeps the buffer of a read as its cache", func() *broken {
		var cache []byte
		var at int64
		return &broken{
			read: func(s mem, ctx ctxt, p []byte, off int64) error {
				cache, at = p, off
				return s.ReadAt(ctx, p, off)
			},
			write: func(s mem, ctx ctxt, p []byte, off int64, f flags) error {
				if cache != nil && off == at {
					copy(cache, p)
				}
				return s.WriteAt(ctx, p, off, f)
			}}
	}},
	{"WriteDoesNotChangeItsBuffer", "encrypts in place", func() *broken {
		scramble := func(p []byte) {
			for i := range p {
				p[i] ^= 0x5a
			}
		}
		return &broken{
			write: func(s mem, ctx ctxt, p []byte, off int64, f flags) error {
				scramble(p)
				return s.WriteAt(ctx, p, off, f)
			},
			read: func(s mem, ctx ctxt, p []byte, off int64) error {
				err := s.ReadAt(ctx, p, off)
				scramble(p)
				return err
			}}
	}},
	{"EndedContextReturnsPromptly", "waits for ever once the context has ended", func() *broken {
		closed := make(chan struct{})
		return &broken{
			flush: func(s mem, ctx ctxt) error {
				if ctx.Err() != nil {
					<-closed
				}
				return ctx.Err()
			},
			close: func(s mem) error { close(closed); return s.Close() }}
	}},
	{"CancelledWriteDoesNotLandLater", "gives up waiting for a write but lets it land", func() *broken {
		var late func()
		return &broken{write: func(s mem, ctx ctxt, p []byte, off int64, f flags) error {
			if ctx.Done() != nil { // one that can be cancelled, will be
				p = bytes.Clone(p)
				late = func() { _ = s.WriteAt(context.Background(), p, off, f) }
				return context.Canceled
			}
			err := s.WriteAt(ctx, p, off, f)
			if late != nil {
				late()
			}
			return err
		}}
	}},
	{"RandomOperationsMatchAModel", "loses writes that cross 128 KiB and end off a sector", func() *broken {
		return &broken{write: func(s mem, ctx ctxt, p []byte, off int64, f flags) error {
			end := off + int64(len(p))
			if len(p) < 128<<10 && off>>17 != end>>17 && end&511 != 0 {
				return nil
			}
			return s.WriteAt(ctx, p, off, f)
		}}
	}},
	{"ConcurrentNeighboursDoNotDisturbEachOther", "reads, modifies and writes blocks without a lock", func() *broken {
		return &broken{write: unlockedReadModifyWrite()}
	}},
	{"NeighboursOfASmallWriteDoNotChange", "has blocks that are rubbish while they are written back", func() *broken {
		return rubbishWhileWrittenBack(0xdb)
	}},
	{"NeighboursOfASmallWriteDoNotChange", "has blocks that are holes while they are written back", func() *broken {
		return rubbishWhileWrittenBack(0)
	}},
	{"OverlappingWritesLeaveBytesOfOne", "adds up what is written at the same time", func() *broken {
		var mu sync.Mutex
		seen := map[byte]bool{}
		return &broken{write: func(s mem, ctx ctxt, p []byte, off int64, f flags) error {
			mu.Lock()
			defer mu.Unlock()
			if seen[p[0]] = true; len(seen) > 1 {
				p = bytes.Clone(p)
				p[len(p)/2] += 0x40
			}
			return s.WriteAt(ctx, p, off, f)
		}}
	}},
	{"ReadOnlyDiskRefusesChanges", "says read-only and writes", func() *broken {
		return &broken{info: sayReadOnly}
	}},
	{"ReadOnlyDiskRefusesChanges", "refuses with EIO", func() *broken {
		return &broken{
			info:  sayReadOnly,
			write: func(mem, ctxt, []byte, int64, flags) error { return store.ErrIO },
			punch: func(mem, ctxt, int64, int64, flags) error { return store.ErrIO },
		}
	}},
}

func sayReadOnly(i store.Info) store.Info { i.ReadOnly = true; return i }

// unlockedReadModifyWrite waits, between its read and its write, for another
// write to have come as far, so that the lost update does not hang on luck.
func unlockedReadModifyWrite() func(mem, ctxt, []byte, int64, flags) error {
	met := make(chan struct{})
	return func(s mem, ctx ctxt, p []byte, off int64, f flags) error {
		start, end := off&^4095, min(roundUp(off+int64(len(p)), 4096), s.Info().Size)
		block := make([]byte, end-start)
		if err := s.ReadAt(ctx, block, start); err != nil {
			return err
		}
		select {
		case met <- struct{}{}:
		case <-met:
		case <-time.After(time.Millisecond): // the last one is alone
		}
		copy(block[off-start:], p)
		return s.WriteAt(ctx, block, start, f)
	}
}

// rubbishWhileWrittenBack does read-modify-write as it should be done, but leaves the
// block full of rubbish for long enough that a read can see it.
func rubbishWhileWrittenBack(rubbish byte) *broken {
	var mu sync.Mutex
	read := make(chan struct{})
	return &broken{
		write: func(s mem, ctx ctxt, p []byte, off int64, f flags) error {
			mu.Lock()
			defer mu.Unlock()
			start, end := off&^4095, min(roundUp(off+int64(len(p)), 4096), s.Info().Size)
			block := make([]byte, end-start)
			if err := s.ReadAt(ctx, block, start); err != nil {
				return err
			}
			if err := s.WriteAt(ctx, bytes.Repeat([]byte{rubbish}, len(block)), start, 0); err != nil {
				return err
			}
			for range 4 { // the first of them may have begun before
				select {
				case <-read:
				case <-time.After(10 * time.Millisecond): // nobody reads
				}
			}
			copy(block[off-start:], p)
			return s.WriteAt(ctx, block, start, f)
		},
		read: func(s mem, ctx ctxt, p []byte, off int64) error {
			err := s.ReadAt(ctx, p, off)
			select {
			case read <- struct{}{}:
			default:
			}
			return err
		}}
}

// perform checks one clause, apart from the real test, and returns what failed.
func perform(t *testing.T, c clause, b *bench) []string {
	r := newRecorder(t.Context(), c.name)
	<-r.run(func(t testing.TB) { c.check(t, b) })
	return r.wrong
}

// benchFor is newBench with one seed.
func benchFor(t *testing.T, open Factory) *bench {
	return newBench(t, Suite{Open: open, Seed: 1})
}

func clauseNamed(t *testing.T, name string) clause {
	for _, c := range clauses {
		if c.name == name {
			return c
		}
	}
	t.Fatalf("there is no clause %s", name)
	panic("not reached")
}

func TestBrokenStoresAreCaught(t *testing.T) {
	for _, breakage := range breakages {
		t.Run(breakage.does, func(t *testing.T) {
			open := func(_ testing.TB, size int64) store.Store {
				b := breakage.make()
				b.Store = memstore.New(size)
				return b
			}
			b := benchForBroken(t, open)
			c := clauseNamed(t, breakage.clause)
			if !c.applies(b) {
				t.Fatalf("%s is left out for a store that %s", c.name, breakage.does)
			}
			failures := perform(t, c, b)
			if len(failures) == 0 {
				t.Fatalf("%s passes with a store that %s", c.name, breakage.does)
			}
			t.Logf("caught: %s", failures[0])
		})
	}
}

// benchForBroken takes the facts from one disk without the first look that
// newBench does, which some of the broken stores do not survive.
func benchForBroken(t *testing.T, open Factory) *bench {
	b := benchFor(t, func(_ testing.TB, size int64) store.Store { return memstore.New(size) })
	b.Open = open
	b.patience = 50 * time.Millisecond
	b.info = open(t, leastFixed).Info()
	return b
}

func TestEveryClauseCatchesABrokenStore(t *testing.T) {
	caught := map[string]bool{}
	for _, b := range breakages {
		caught[b.clause] = true
	}
	for _, b := range lenderBreakages {
		caught[b.clause] = true
	}
	for _, c := range clauses {
		if !caught[c.name] {
			t.Errorf("no broken store shows that %s can fail", c.name)
		}
	}
}

func TestSoundStorePassesBeforeTheRecorder(t *testing.T) {
	b := benchFor(t, func(_ testing.TB, size int64) store.Store { return memstore.New(size) })
	for _, c := range clauses {
		if !c.applies(b) {
			continue
		}
		if failures := perform(t, c, b); len(failures) > 0 {
			t.Errorf("%s fails with a sound store: %s", c.name, failures[0])
		}
	}
}

// readOnlyDisk is a sound store that refuses changes, also unannounced ones.
func readOnlyDisk(size int64) store.Store {
	return &broken{
		Store: memstore.New(size),
		info: func(i store.Info) store.Info {
			i.ReadOnly, i.CanExtents = true, false
			return i
		},
		write:   func(mem, ctxt, []byte, int64, flags) error { return store.ErrReadOnly },
		punch:   func(mem, ctxt, int64, int64, flags) error { return store.ErrReadOnly },
		extents: func(_ mem, _ ctxt, off, length int64) ([]store.Extent, error) { return store.AllData(off, length), nil },
	}
}

func TestReadOnlyDiskPasses(t *testing.T) {
	Run(t, func(_ testing.TB, size int64) store.Store { return readOnlyDisk(size) })
}

func TestDiskOfFixedSizePasses(t *testing.T) {
	const size = 3 << 20
	Suite{
		Open:      func(testing.TB, int64) store.Store { return memstore.New(size) },
		FixedSize: size,
	}.Run(t)
}

// modest is a sound store that offers as little as the contract lets it.
func modest(size int64) store.Store {
	return &broken{
		Store: memstore.New(size),
		info: func(i store.Info) store.Info {
			return store.Info{Size: i.Size, CanDiscard: true, Survives: store.SurvivesFlushed}
		},
		write: func(s mem, ctx ctxt, p []byte, off int64, f flags) error {
			if f != 0 {
				return store.ErrNotSupported
			}
			return s.WriteAt(ctx, p, off, 0)
		},
		punch: func(s mem, ctx ctxt, off, length int64, f flags) error {
			if f&^store.Discard != 0 {
				return store.ErrNotSupported
			}
			if f != 0 {
				return nil
			}
			return s.WriteAt(ctx, make([]byte, length), off, 0)
		},
		extents: func(_ mem, _ ctxt, off, length int64) ([]store.Extent, error) { return store.AllData(off, length), nil },
	}
}

func TestModestStorePasses(t *testing.T) {
	Run(t, func(_ testing.TB, size int64) store.Store { return modest(size) })
}
