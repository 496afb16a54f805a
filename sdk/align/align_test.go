// SPDX-License-Identifier: Apache-2.0

package align

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/flexnbd/flexnbd/sdk/memstore"
	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/storetest"
)

// blocks is a disk that takes only whole blocks, and says so when it is sent
// anything else.
type blocks struct {
	store.Store
	size int64 // of a block
	// discards is Info.CanDiscard. It zeroes all the same.
	discards bool
	// before, if set, is called at the start of each call.
	before func(what string, off, length int64) error
}

func (b *blocks) Info() store.Info {
	info := b.Store.Info()
	info.MinBlock = uint32(b.size)
	info.PreferredBlock = max(info.PreferredBlock, info.MinBlock)
	info.Unaligned = store.RefusesUnaligned
	info.CanDiscard = b.discards
	return info
}

func (b *blocks) check(what string, off, length int64) error {
	if (off|length)%b.size != 0 {
		return fmt.Errorf("%s of %d bytes at %d is not in blocks of %d: %w", what, length, off, b.size, store.ErrInvalid)
	}
	if b.before != nil {
		return b.before(what, off, length)
	}
	return nil
}

func (b *blocks) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := b.check("read", off, int64(len(p))); err != nil {
		return err
	}
	return b.Store.ReadAt(ctx, p, off)
}

func (b *blocks) WriteAt(ctx context.Context, p []byte, off int64, flags store.Flags) error {
	if err := b.check("write", off, int64(len(p))); err != nil {
		return err
	}
	return b.Store.WriteAt(ctx, p, off, flags)
}

func (b *blocks) PunchHole(ctx context.Context, off, length int64, flags store.Flags) error {
	if err := b.check("punch", off, length); err != nil {
		return err
	}
	return b.Store.PunchHole(ctx, off, length, flags)
}

func (b *blocks) Extents(ctx context.Context, off, length int64) ([]store.Extent, error) {
	if err := b.check("extents", off, length); err != nil {
		return nil, err
	}
	return b.Store.Extents(ctx, off, length)
}

func newBlocks(block, size int64) *blocks {
	return &blocks{Store: memstore.New(size), size: block}
}

func TestAlignedDiskKeepsTheContract(t *testing.T) {
	for _, block := range []int64{512, 4096, 64 << 10} {
		t.Run(fmt.Sprintf("Align%d", block), func(t *testing.T) {
			storetest.Suite{
				Open: func(_ testing.TB, size int64) store.Store {
					b := newBlocks(block, size)
					b.discards = block == 512
					return New(b)
				},
				SizeUnit: block,
			}.Run(t)
		})
	}
	// The disk behind is sound as well, as long as it gets whole blocks.
	t.Run("Behind", func(t *testing.T) {
		storetest.Suite{
			Open:     func(_ testing.TB, size int64) store.Store { return newBlocks(4096, size) },
			SizeUnit: 4096,
		}.Run(t)
	})
}

func TestStoreThatNeedsNoHelpComesBackAsItIs(t *testing.T) {
	mem := memstore.New(4096)
	if New(mem) != store.Store(mem) {
		t.Error("a store that handles unaligned requests was wrapped")
	}
	bytewise := newBlocks(1, 4096)
	if New(bytewise) != store.Store(bytewise) {
		t.Error("a store with blocks of one byte was wrapped")
	}
}

func TestInfoIsThatOfTheDiskBehindButForAlignment(t *testing.T) {
	behind := newBlocks(4096, 1<<20)
	want := behind.Info()
	want.Unaligned = store.HandlesUnaligned
	if got := New(behind).Info(); got != want {
		t.Errorf("Info is %+v, want %+v", got, want)
	}
}

// call is one call that a disk has seen.
type call struct {
	what        string
	off, length int64
}

// trace notes the calls that reach the disk behind.
func trace(b *blocks) *[]call {
	var calls []call
	b.before = func(what string, off, length int64) error {
		calls = append(calls, call{what, off, length})
		return nil
	}
	return &calls
}

func wantCalls(t *testing.T, calls *[]call, want ...call) {
	t.Helper()
	if fmt.Sprint(*calls) != fmt.Sprint(want) {
		t.Errorf("the disk behind saw %v, want %v", *calls, want)
	}
	*calls = nil
}

func TestOnlyTheEdgesAreReadAndWrittenBack(t *testing.T) {
	const block, large = 4096, 1 << 20
	ctx := context.Background()
	b := newBlocks(block, 4<<20)
	disk := New(b)
	calls := trace(b)
	p := make([]byte, 2*large)

	for _, do := range []func() error{
		func() error { return disk.WriteAt(ctx, p[:2*block], block, 0) },
		func() error { return disk.ReadAt(ctx, p[:2*block], block) },
	} {
		if err := do(); err != nil {
			t.Fatal(err)
		}
	}
	wantCalls(t, calls, call{"write", block, 2 * block}, call{"read", block, 2 * block})

	if err := disk.WriteAt(ctx, p[:100], block-50, 0); err != nil {
		t.Fatal(err)
	}
	wantCalls(t, calls, call{"read", 0, 2 * block}, call{"write", 0, 2 * block})

	if err := disk.WriteAt(ctx, p[:large], 1, 0); err != nil {
		t.Fatal(err)
	}
	wantCalls(t, calls,
		call{"read", 0, block}, call{"write", 0, block},
		call{"write", block, large - block},
		call{"read", large, block}, call{"write", large, block})
}

func TestUnalignedPunchPunchesTheMiddleAndZeroesTheEdges(t *testing.T) {
	const block = 4096
	ctx := context.Background()
	b := newBlocks(block, 16*block)
	b.discards = true
	disk := New(b)
	if err := disk.WriteAt(ctx, bytes.Repeat([]byte{1}, 16*block), 0, 0); err != nil {
		t.Fatal(err)
	}
	calls := trace(b)
	punch := func(off, length int64, flags store.Flags) {
		t.Helper()
		if err := disk.PunchHole(ctx, off, length, flags); err != nil {
			t.Fatal(err)
		}
	}
	middle := call{"punch", block, 2 * block}
	punch(block-1, 2*block+2, 0)
	wantCalls(t, calls, middle,
		call{"read", 0, block}, call{"write", 0, block}, call{"read", 3 * block, block}, call{"write", 3 * block, block})
	punch(block-1, 2*block+2, 0) // the edges are zero by now
	wantCalls(t, calls, middle, call{"read", 0, block}, call{"read", 3 * block, block})
	punch(block-1, 2*block+2, store.Discard)
	wantCalls(t, calls, middle)
	punch(1, 10, store.Discard)
	wantCalls(t, calls)
	punch(block-1, 1, store.FUA) // zero, but perhaps not yet on the disk
	wantCalls(t, calls, call{"read", 0, block}, call{"write", 0, block})
}

func TestRefusedPunchChangesNotEvenTheEdges(t *testing.T) {
	ctx := context.Background()
	b := newBlocks(512, 8192)
	disk := New(b)
	want := bytes.Repeat([]byte{1}, 8192)
	if err := disk.WriteAt(ctx, want, 0, 0); err != nil {
		t.Fatal(err)
	}
	b.before = func(what string, _, _ int64) error {
		if what == "punch" {
			return store.ErrNotSupported
		}
		return nil
	}
	if err := disk.PunchHole(ctx, 100, 8000, store.Fast); !errors.Is(err, store.ErrNotSupported) {
		t.Fatalf("error is %v, want %v", err, store.ErrNotSupported)
	}
	got := make([]byte, 8192)
	if err := disk.ReadAt(ctx, got, 0); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("a refused punch changed the disk (%v)", err)
	}
}

func TestReadOnlyDiskRefusesBeforeItReads(t *testing.T) {
	b := newBlocks(512, 8192)
	disk := New(readOnly{b})
	calls := trace(b)
	ctx := context.Background()
	for name, err := range map[string]error{
		"write":   disk.WriteAt(ctx, make([]byte, 1), 1, 0),
		"punch":   disk.PunchHole(ctx, 1, 1, 0),
		"discard": disk.PunchHole(ctx, 1, 1, store.Discard),
	} {
		if !errors.Is(err, store.ErrReadOnly) {
			t.Errorf("%s: error is %v, want %v", name, err, store.ErrReadOnly)
		}
	}
	wantCalls(t, calls)
}

type readOnly struct{ *blocks }

func (r readOnly) Info() store.Info {
	info := r.blocks.Info()
	info.ReadOnly = true
	return info
}

// shortMap is a disk whose extents end off the block boundaries.
type shortMap struct{ *blocks }

func (shortMap) Extents(_ context.Context, off, _ int64) ([]store.Extent, error) {
	return []store.Extent{{Offset: off, Length: 100, State: store.Hole | store.Zero}}, nil
}

func TestExtentMapThatEndsBeforeTheOffsetIsData(t *testing.T) {
	disk := New(shortMap{newBlocks(512, 8192)})
	extents, err := disk.Extents(context.Background(), 200, 1000)
	want := store.Extent{Offset: 200, Length: 1000}
	if err != nil || len(extents) != 1 || extents[0] != want {
		t.Fatalf("extents %v, error %v, want %v", extents, err, want)
	}
}

// stopped starts write on a disk of blocks of 512 bytes, and returns with it
// stopped after its read, in the middle of its read-modify-write of block 0. It
// goes on when resume is called, which waits for its end.
func stopped(t *testing.T) (disk store.Store, resume func()) {
	b := newBlocks(512, 8192)
	disk = New(b)
	held, first := make(chan struct{}), true
	b.before = func(what string, off, _ int64) error {
		if what == "write" && off == 0 && first {
			first = false
			<-held
		}
		return nil
	}
	done := make(chan error)
	go func() { done <- disk.WriteAt(context.Background(), []byte{1, 1}, 0, 0) }()
	synctest.Wait()
	return disk, func() {
		close(held)
		if err := <-done; err != nil {
			t.Errorf("the read-modify-write that was held up: %v", err)
		}
	}
}

func TestWritesToOneBlockDoNotUndoEachOther(t *testing.T) {
	p := bytes.Repeat([]byte{2}, 512)
	ctx := context.Background()
	for name, other := range map[string]struct {
		do         func(store.Store) error
		last, want byte // byte 511 afterwards, and byte 0
	}{
		"Unaligned":      {func(d store.Store) error { return d.WriteAt(ctx, p[:1], 511, 0) }, 2, 1},
		"Aligned":        {func(d store.Store) error { return d.WriteAt(ctx, p, 0, 0) }, 2, 2},
		"UnalignedPunch": {func(d store.Store) error { return d.PunchHole(ctx, 1, 511, store.FUA) }, 0, 1},
		"AlignedPunch":   {func(d store.Store) error { return d.PunchHole(ctx, 0, 1024, 0) }, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				disk, resume := stopped(t)
				done := make(chan error, 1)
				go func() { done <- other.do(disk) }()
				synctest.Wait()
				select {
				case err := <-done:
					t.Errorf("it did not wait for the read-modify-write of its block (%v)", err)
					done <- err
				default:
				}
				resume()
				if err := <-done; err != nil {
					t.Fatal(err)
				}
				got := make([]byte, 512)
				if err := disk.ReadAt(ctx, got, 0); err != nil {
					t.Fatal(err)
				}
				if got[511] != other.last || got[0] != other.want {
					t.Errorf("bytes 0 and 511 are %d and %d, want %d and %d", got[0], got[511], other.want, other.last)
				}
			})
		})
	}
}

func TestOtherBlocksDoNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk, resume := stopped(t)
		defer resume()
		ctx := context.Background()
		p := make([]byte, 1024)
		// Each of these would hang for ever, which synctest reports.
		if err := errors.Join(
			disk.WriteAt(ctx, p, 512, 0),
			disk.WriteAt(ctx, p[:10], 513, 0),
			disk.PunchHole(ctx, 600, 5000, 0),
			disk.ReadAt(ctx, p[:7], 513),
		); err != nil {
			t.Fatal(err)
		}
	})
}

func TestWaitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk, resume := stopped(t)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- disk.WriteAt(ctx, []byte{9}, 5, 0) }()
		synctest.Wait()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("error is %v, want %v", err, context.Canceled)
		}
		resume()
		if err := disk.WriteAt(context.Background(), []byte{3}, 6, 0); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 7)
		if err := disk.ReadAt(context.Background(), got, 0); err != nil || !bytes.Equal(got, []byte{1, 1, 0, 0, 0, 0, 3}) {
			t.Errorf("the block begins with %v (%v)", got, err)
		}
	})
}
