// SPDX-License-Identifier: Apache-2.0

package fdstore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/sdk/store"
)

// maxOffload is the most that one system call has a device zero or discard by
// itself, in bytes. Devices do it at many gigabytes a second.
const maxOffload = 256 << 20

// block is the medium of a block device. The Store it belongs to is behind it.
//
// Zeroing and discarding are done by the device. The kernel drops the range from
// the page cache, unwritten changes included, and holds up whoever wants to read
// it back in meanwhile. Only whole pages are zeroed that way: a page that is only
// half in the range may be in the middle of a write to its other half, which
// before Linux 6.15 could have put back what was there. The edges are written as
// zeroes through the page cache, whose lock on each page sorts it out.
type block struct {
	*Store
	device uint64 // its number
	page   int64  // ranges for the device are multiples of it; a power of two

	// offloads: as far as is known the device makes zeroes by itself. Some
	// devices are found out only when they are asked.
	offloads atomic.Bool
	discards bool
}

// describe asks the device. None of it changes anything.
func (b *block) describe(info *store.Info) (err error) {
	if info.Size, err = b.size(); err != nil {
		return err
	}
	if info.Size > store.MaxSize {
		return fmt.Errorf("image %s has %d bytes, the most is %d: %w", b.file.Name(), info.Size, int64(store.MaxSize), unix.EFBIG)
	}
	g, err := b.sys.geometry(b.fd)
	if err != nil {
		return b.failed("asking for its block sizes", err)
	}
	if g.readOnly && !info.ReadOnly {
		return fmt.Errorf("image %s is a read-only device; serve it with --read-only, or make it writable (blockdev --setrw): %w",
			b.file.Name(), store.ErrReadOnly)
	}
	if err := b.describeBlocks(info, g); err != nil {
		return err
	}
	// Without sysfs nothing is known, and nothing is promised.
	l, _ := b.sys.queueLimits(b.device)
	b.offloads.Store(l.zero > 0)
	b.discards = l.discard > 0
	if !info.ReadOnly {
		info.CanPunch = l.zero > 0 // whether space is freed, the device decides
		info.CanDiscard = b.discards || !info.CanPunch
		info.CanKeepAllocated = true
		info.CanFast = true
	}
	return nil
}

// describeBlocks prefers whole physical blocks, and at least a page: less has to
// be read before it can be changed.
func (b *block) describeBlocks(info *store.Info, g geometry) error {
	if g.logical < 512 || g.logical > store.MaxMinBlock || g.logical&(g.logical-1) != 0 {
		return fmt.Errorf("image %s has blocks of %d bytes, which is no power of two from 512 to %d: %w",
			b.file.Name(), g.logical, store.MaxMinBlock, store.ErrInvalid)
	}
	info.MinBlock = g.logical
	info.PreferredBlock = max(g.logical, fallbackBlock)
	if p := g.physical; p > info.PreferredBlock && p <= store.MaxPreferred && p&(p-1) == 0 {
		info.PreferredBlock = p
	}
	b.page = max(int64(os.Getpagesize()), int64(g.logical))
	return nil
}

// size is what the device has now. One that was pulled out has none.
func (b *block) size() (int64, error) {
	size, err := b.sys.deviceSize(b.fd)
	if err != nil {
		return 0, b.failed("asking for the size", err)
	}
	return size, nil
}

// punch has the device zero or discard the whole pages of the range, and writes
// zeroes to the edges.
//
// Fast with KeepAllocated is refused: the kernel offers no zeroing that keeps
// the space and does not fall back to writing.
func (b *block) punch(ctx context.Context, off, length int64, flags store.Flags) error {
	if flags&store.Discard != 0 && b.info.CanDiscard {
		return b.discard(ctx, off, length, flags)
	}
	keep := flags&store.KeepAllocated != 0
	if flags&store.Fast != 0 && (keep || !b.offloads.Load()) {
		return store.ErrNotSupported
	}
	start, end := b.wholePages(off, length)
	if start >= end {
		return b.writeZeroes(ctx, off, length)
	}
	// The edges come last: a refusal must have changed nothing.
	if err := b.zero(ctx, start, end, keep); err != nil {
		return err
	}
	if err := b.writeZeroes(ctx, off, start-off); err != nil {
		return err
	}
	return b.writeZeroes(ctx, end, off+length-end)
}

// wholePages is what is left of the range without its edges; start is behind end
// where that is nothing.
func (b *block) wholePages(off, length int64) (start, end int64) {
	return (off + b.page - 1) &^ (b.page - 1), (off + length) &^ (b.page - 1)
}

// zero zeroes whole pages. A device that cannot do it by itself is sent zeroes,
// by the kernel where that can.
//
// A device that said it could, and then refuses, has it done for it as well, also
// if the caller asked for Fast: by then the kernel has dropped unwritten changes,
// so that going back would lose data that was acknowledged. It happens once.
func (b *block) zero(ctx context.Context, off, end int64, keep bool) error {
	for off < end {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := int64(0), error(unix.EOPNOTSUPP)
		if !keep && b.offloads.Load() {
			n = cut(off, end, maxOffload)
			if err = b.fallocate(unix.FALLOC_FL_PUNCH_HOLE, off, n); unsupported(err) {
				b.offloads.Store(false)
			}
		}
		if unsupported(err) {
			n = cut(off, end, maxPiece)
			err = b.fallocate(unix.FALLOC_FL_ZERO_RANGE, off, n)
		}
		if unsupported(err) || errors.Is(err, unix.ENODEV) { // before Linux 4.9
			err = b.writeZeroes(ctx, off, n)
		}
		if err != nil {
			return b.offloadFailed("zeroing", off, n, err)
		}
		if err := b.reaches(off + n); err != nil {
			return err
		}
		off += n
	}
	return nil
}

// discard tells the device that the whole pages of the range are of no use. To
// do nothing is allowed, so it does not care for edges or for devices that
// cannot; and what has to stay allocated stays as it is.
func (b *block) discard(ctx context.Context, off, length int64, flags store.Flags) error {
	if !b.discards || flags&store.KeepAllocated != 0 {
		return nil
	}
	off, end := b.wholePages(off, length)
	for off < end {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := cut(off, end, maxOffload)
		err := b.sys.discard(b.fd, off, n)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case unsupported(err):
			return nil
		case err != nil:
			return b.offloadFailed("discarding", off, n, err)
		}
		off += n
	}
	return nil
}

// cut returns how much of off to end to do at a time: up to a multiple of most,
// so that a device with large blocks finds them whole.
func cut(off, end, most int64) int64 { return min(end-off, most-off%most) }

// reaches returns an error if the device ends before end. fallocate zeroes what
// there is of a range and does not say how much that was.
func (b *block) reaches(end int64) error {
	size, err := b.size()
	if err == nil && size < end {
		err = b.shrunk(size)
	}
	return err
}

// offloadFailed says what is known of a range that the device did not do.
func (b *block) offloadFailed(doing string, off, length int64, err error) error {
	if errors.Is(err, unix.EINVAL) { // of a range that is aligned
		if short := b.reaches(off + length); short != nil {
			return short
		}
	}
	return b.failed(fmt.Sprintf("%s %d bytes at %d", doing, length, off), err)
}

// extents knows nothing. SEEK_HOLE is not for devices, and a range that was
// discarded, or never written, may read as anything.
func (b *block) extents(ctx context.Context, off, length int64) ([]store.Extent, error) {
	if err := ctx.Err(); err != nil || length == 0 {
		return nil, err
	}
	return store.AllData(off, length), nil
}
