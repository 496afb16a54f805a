// SPDX-License-Identifier: Apache-2.0

package fdstore

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/sdk/store"
)

const (
	// maxExtents bounds what one call to Extents takes, in memory and in
	// system calls: a badly fragmented image has millions.
	maxExtents = 1024

	fallbackBlock = 4096 // bytes, where st_blksize makes no sense
)

// regular is the medium of a regular file. The Store it belongs to is behind it.
type regular struct {
	*Store
	stat unix.Stat_t
}

// describe takes the size from stat and tries out what the file system can do,
// in ways that change nothing.
func (r *regular) describe(info *store.Info) error {
	info.Size = r.stat.Size
	if info.Size > store.MaxSize {
		return fmt.Errorf("image %s has %d bytes, the most is %d: %w", r.file.Name(), info.Size, int64(store.MaxSize), unix.EFBIG)
	}
	info.PreferredBlock = fallbackBlock
	//nolint:unconvert // Blksize is an int32 on arm64
	if b := int64(r.stat.Blksize); b >= 512 && b <= store.MaxPreferred && b&(b-1) == 0 {
		info.PreferredBlock = uint32(b)
	}
	info.CanExtents = r.canSeek()
	if !info.ReadOnly {
		info.CanPunch = r.canPunch()
		info.CanDiscard = !info.CanPunch // doing nothing is cheaper than writing zeroes
		info.CanKeepAllocated = true     // if need be by writing zeroes
		info.CanFast = true
	}
	return nil
}

// canPunch punches behind the end of the file, where there is nothing.
func (r *regular) canPunch() bool {
	return !unsupported(r.fallocate(unix.FALLOC_FL_PUNCH_HOLE, r.stat.Size, 1))
}

// canSeek looks for data. ENXIO says that there is none.
func (r *regular) canSeek() bool {
	_, err := r.sys.lseek(r.fd, 0, unix.SEEK_DATA)
	return err == nil || errors.Is(err, unix.ENXIO)
}

// punch frees the range, or with KeepAllocated turns it into allocated space
// that reads as zeroes. A file system that cannot do it has zeroes written to
// it, unless that is too slow for the caller (Fast) or more than was asked for
// (Discard).
func (r *regular) punch(ctx context.Context, off, length int64, flags store.Flags) error {
	mode := uint32(unix.FALLOC_FL_PUNCH_HOLE)
	if flags&store.KeepAllocated != 0 {
		mode = unix.FALLOC_FL_ZERO_RANGE
	}
	err := r.fallocate(mode, off, length)
	switch {
	case err == nil:
		return nil
	case !unsupported(err):
		return r.failed(fmt.Sprintf("zeroing %d bytes at %d", length, off), err)
	case flags&store.Discard != 0 && r.info.CanDiscard:
		return nil
	case flags&store.Fast != 0:
		return store.ErrNotSupported
	}
	return r.writeZeroes(ctx, off, length)
}

// extents walks the file with SEEK_DATA and SEEK_HOLE. These move the
// descriptor's offset, which nobody uses, and return what they found in the same
// system call, so that no lock is needed.
//
// Preallocated space that nothing was written to is a hole to SEEK_HOLE. It
// reads as zeroes all the same; that writing to it cannot run out of space is
// not known here.
func (r *regular) extents(ctx context.Context, off, length int64) ([]store.Extent, error) {
	if length == 0 {
		return nil, ctx.Err()
	}
	if !r.info.CanExtents {
		return store.AllData(off, length), ctx.Err()
	}
	var extents []store.Extent
	for end := off + length; off < end && len(extents) < maxExtents; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		data, err := r.nextData(off, end)
		if err != nil {
			return nil, err
		}
		if data > off {
			extents = append(extents, store.Extent{Offset: off, Length: data - off, State: store.Hole | store.Zero})
		}
		if off = data; off == end {
			break
		}
		hole, err := r.seek(off, unix.SEEK_HOLE)
		if errors.Is(err, unix.ENXIO) {
			return nil, r.shrunk(off)
		} else if err != nil {
			return nil, err
		}
		if hole <= off {
			// Punched between the two calls. Data is never wrong to say,
			// and a block of it gets us on.
			hole = off + int64(r.info.PreferredBlock)
		}
		hole = min(hole, end)
		extents = append(extents, store.Extent{Offset: off, Length: hole - off, State: store.Data})
		off = hole
	}
	return extents, nil
}

// nextData returns where the next data begins, from off up to end.
func (r *regular) nextData(off, end int64) (int64, error) {
	data, err := r.seek(off, unix.SEEK_DATA)
	switch {
	case err == nil:
		return min(data, end), nil
	case !errors.Is(err, unix.ENXIO):
		return 0, err
	}
	// No more data: either a hole to the end of the file, or the end of the
	// file came sooner than it should.
	size, err := r.size()
	if err != nil {
		return 0, err
	}
	if size < end {
		return 0, r.shrunk(size)
	}
	return end, nil
}

func (r *regular) size() (int64, error) {
	var st unix.Stat_t
	if err := r.sys.fstat(r.fd, &st); err != nil {
		return 0, r.failed("asking for the size", err)
	}
	return st.Size, nil
}

// seek is lseek; ENXIO comes back bare, for the caller to tell apart.
func (r *regular) seek(off int64, whence int) (int64, error) {
	found, err := r.sys.lseek(r.fd, off, whence)
	if err != nil && !errors.Is(err, unix.ENXIO) {
		return 0, r.failed(fmt.Sprintf("asking for extents at %d", off), err)
	}
	return found, err
}
