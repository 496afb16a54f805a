// SPDX-License-Identifier: Apache-2.0

package fdstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/sdk/store"
)

// maxPiece is the most that one system call reads or writes, in bytes, so that
// a context that ends is noticed in time on a slow disk.
const maxPiece = 8 << 20

// zeroes is what is written where the kernel cannot zero a range.
var zeroes [256 << 10]byte

// Options for [New].
type Options struct {
	// ReadOnly serves the image without ever changing it, and lets other
	// read-only servers do the same.
	ReadOnly bool
	// Identity becomes [store.Info.Identity].
	Identity string
}

// Store is a disk in an open file. Use [New] to make one.
type Store struct {
	file   *os.File
	fd     int
	info   store.Info
	medium medium
	latch  latch
	loan   *store.Loan
	sys    syscalls
}

var (
	_ store.Leaser = (*Store)(nil)
	_ store.Lender = (*Store)(nil)
)

// medium is what sets one kind of file apart from another.
type medium interface {
	// describe fills in the size, the block sizes and the abilities.
	describe(info *store.Info) error
	// punch is PunchHole without FUA.
	punch(ctx context.Context, off, length int64, flags store.Flags) error
	extents(ctx context.Context, off, length int64) ([]store.Extent, error)
	// size is what the size is now, in bytes.
	size() (int64, error)
}

// New serves the image in f, which must be open for reading, and for writing too
// unless o says ReadOnly, and not with O_APPEND; a block device with O_EXCL (see
// the package comment). It locks the image; one that is locked already gives an
// error that wraps EBUSY. On success the Store owns f, on failure the caller
// still does.
func New(f *os.File, o Options) (*Store, error) {
	return newStore(f, o, linux)
}

// Reopen is New for the lease of an earlier process's Store (see
// [store.Leaser]): its image, wherever that is by now, its lock and all. name is
// for messages. Reopen owns lease, whatever it returns.
func Reopen(lease *os.File, name string, o Options) (*Store, error) {
	defer func() { _ = lease.Close() }()
	fd, err := unix.FcntlInt(lease.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("image %s: going on with its lease: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	s, err := New(f, o)
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return s, nil
}

func newStore(f *os.File, o Options, sys syscalls) (*Store, error) {
	s := &Store{file: f, fd: int(f.Fd()), loan: store.NewLoan(f), sys: sys}
	if err := s.checkMode(o.ReadOnly); err != nil {
		return nil, err
	}
	if err := lock(f, !o.ReadOnly); err != nil {
		return nil, err
	}
	// The size counts only from here on: until now another server could have
	// changed it.
	var st unix.Stat_t
	if err := s.sys.fstat(s.fd, &st); err != nil {
		return nil, s.failed("asking for the size", err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		s.medium = &regular{Store: s, stat: st}
	case unix.S_IFBLK:
		s.medium = &block{Store: s, device: uint64(st.Rdev)} //nolint:unconvert // Rdev is a uint32 on mips
	default:
		return nil, fmt.Errorf("image %s is no regular file and no block device: %w", f.Name(), store.ErrInvalid)
	}
	s.info = store.Info{
		ReadOnly:   o.ReadOnly,
		Identity:   o.Identity,
		MinBlock:   1,
		Unaligned:  store.HandlesUnaligned,
		FUA:        store.Native,
		Survives:   store.SurvivesAcknowledged,
		Replayable: true,
	}
	if err := s.medium.describe(&s.info); err != nil {
		return nil, err
	}
	return s, nil
}

// checkMode refuses descriptors that cannot do what is asked of them. With
// O_APPEND, Linux's pwrite ignores the offset.
func (s *Store) checkMode(readOnly bool) error {
	mode, err := unix.FcntlInt(uintptr(s.fd), unix.F_GETFL, 0)
	if err != nil {
		return s.failed("asking how it was opened", err)
	}
	access := mode & unix.O_ACCMODE
	switch {
	case mode&unix.O_APPEND != 0:
		return fmt.Errorf("image %s was opened with O_APPEND, which would put every write at its end: %w", s.file.Name(), store.ErrInvalid)
	case mode&unix.O_PATH != 0, access == unix.O_WRONLY:
		return fmt.Errorf("image %s was not opened for reading: %w", s.file.Name(), store.ErrInvalid)
	case !readOnly && access != unix.O_RDWR:
		return fmt.Errorf("image %s was opened for reading only, and is to be written: %w", s.file.Name(), store.ErrReadOnly)
	}
	return nil
}

// Info returns what was found when the store was made.
func (s *Store) Info() store.Info { return s.info }

// ReadAt is pread until p is full. An image that ends early gives EIO.
func (s *Store) ReadAt(ctx context.Context, p []byte, off int64) error {
	for len(p) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := s.sys.pread(s.fd, p[:min(len(p), maxPiece)], off)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return s.failed(fmt.Sprintf("reading %d bytes at %d", len(p), off), err)
		case n == 0:
			return s.shrunk(off)
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// WriteAt is pwrite until all of p is in the page cache, or with FUA pwritev2
// until it is on the disk.
func (s *Store) WriteAt(ctx context.Context, p []byte, off int64, flags store.Flags) error {
	if s.info.ReadOnly {
		return s.refused()
	}
	if flags&store.FUA == 0 {
		return s.write(ctx, p, off)
	}
	if err := s.latch.enter(); err != nil {
		return err
	}
	err, lost := s.writeThrough(ctx, p, off)
	if l := s.latch.leave(lost); l != nil {
		return l
	}
	return err
}

// PunchHole frees the range where the file system or the device can. With FUA it
// then syncs the file: there is no punch that syncs itself.
func (s *Store) PunchHole(ctx context.Context, off, length int64, flags store.Flags) error {
	if s.info.ReadOnly {
		return s.refused()
	}
	if err := ctx.Err(); err != nil || length == 0 {
		return err
	}
	if err := s.medium.punch(ctx, off, length, flags); err != nil {
		return err
	}
	if flags&store.FUA != 0 {
		return s.Flush(ctx)
	}
	return nil
}

// Extents asks the file system, and answers with at most maxExtents extents. Of a
// device nothing is known.
func (s *Store) Extents(ctx context.Context, off, length int64) ([]store.Extent, error) {
	return s.medium.extents(ctx, off, length)
}

// Flush is fdatasync. Once it has failed it does so for good.
func (s *Store) Flush(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.latch.enter(); err != nil {
		return err
	}
	return s.latch.leave(s.sync())
}

// Close closes the file, which gives up the lock unless a duplicate of the
// descriptor is still open. It does not flush.
func (s *Store) Close() error { return s.file.Close() }

// Lease implements [store.Leaser]: the lock is on this descriptor.
func (s *Store) Lease() *os.File { return s.file }

// Lend implements [store.Lender]. It is not taken back.
func (s *Store) Lend() *store.Loan { return s.loan }

// write puts p into the page cache.
func (s *Store) write(ctx context.Context, p []byte, off int64) error {
	for len(p) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := s.sys.pwrite(s.fd, p[:min(len(p), maxPiece)], off)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err == nil && n == 0:
			err = io.ErrShortWrite
			fallthrough
		case err != nil:
			return s.writeFailed(len(p), off, err)
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// writeFailed tells a device that is full from one that ends early: Linux
// answers ENOSPC to a write behind the end of a device.
func (s *Store) writeFailed(length int, off int64, err error) error {
	if errors.Is(err, unix.ENOSPC) {
		if size, unknown := s.medium.size(); unknown == nil && off >= size {
			return s.shrunk(off)
		}
	}
	return s.failed(fmt.Sprintf("writing %d bytes at %d", length, off), err)
}

// writeZeroes puts zeroes into the page cache.
func (s *Store) writeZeroes(ctx context.Context, off, length int64) error {
	for length > 0 {
		n := min(length, int64(len(zeroes)))
		if err := s.write(ctx, zeroes[:n], off); err != nil {
			return err
		}
		off, length = off+n, length-n
	}
	return nil
}

// fallocate never changes the size of the file.
func (s *Store) fallocate(mode uint32, off, length int64) error {
	for {
		err := s.sys.fallocate(s.fd, mode|unix.FALLOC_FL_KEEP_SIZE, off, length)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// writeThrough puts p onto the disk. The caller is inside the latch. Of its two
// errors, lost is one for the latch: the sync failed, not the write.
//
// The kernel gives one error for both. Running out of space is mostly the
// write's, and no reason to fail every flush from now on, so then a plain write
// has to fail too before it is believed. Any other error is taken for the
// sync's.
func (s *Store) writeThrough(ctx context.Context, p []byte, off int64) (err, lost error) {
	for len(p) > 0 {
		if err := ctx.Err(); err != nil {
			return err, nil
		}
		n, err := s.sys.pwriteFUA(s.fd, p[:min(len(p), maxPiece)], off)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case unsupported(err): // before Linux 4.7
			if err := s.write(ctx, p, off); err != nil {
				return err, nil
			}
			return nil, s.sync()
		case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
			if full := s.write(ctx, p, off); full != nil {
				return full, nil
			}
			fallthrough
		case err != nil:
			return nil, s.failed(fmt.Sprintf("writing %d bytes at %d with FUA", len(p), off), err)
		case n == 0:
			return s.failed(fmt.Sprintf("writing %d bytes at %d with FUA", len(p), off), io.ErrShortWrite), nil
		}
		p, off = p[n:], off+int64(n)
	}
	return nil, nil
}

// sync is fdatasync. The caller is inside the latch.
func (s *Store) sync() error {
	for {
		switch err := s.sys.fdatasync(s.fd); {
		case err == nil:
			return nil
		case !errors.Is(err, unix.EINTR):
			return s.failed("flushing; writes since the last flush may be lost", err)
		}
	}
}

// failed says what went wrong with which image, for whoever reads the log.
func (s *Store) failed(doing string, err error) error {
	return fmt.Errorf("image %s: %s: %w", s.file.Name(), doing, err)
}

func (s *Store) refused() error {
	return fmt.Errorf("image %s is served read-only: %w", s.file.Name(), store.ErrReadOnly)
}

// shrunk is the error for a byte that the image no longer has.
func (s *Store) shrunk(off int64) error {
	return fmt.Errorf("image %s has no byte %d: something has shrunk it since it was opened with %d bytes: %w",
		s.file.Name(), off, s.info.Size, store.ErrIO)
}
