// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Memory is memory that two processes have mapped.
type Memory struct {
	Bytes []byte   // as long as the memory
	File  *os.File // for the other process; nil where it came from one
}

// seals keep the size what it is, and the seals too.
const seals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL

// NewMemory makes memory of size bytes. It takes no page before it is used.
func NewMemory(size int) (*Memory, error) {
	fd, err := unix.MemfdCreate("flexnbd-ring", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("ring: memfd_create: %w", err)
	}
	m := &Memory{File: os.NewFile(uintptr(fd), "flexnbd-ring")}
	if err := unix.Ftruncate(fd, int64(size)); err != nil {
		return nil, errors.Join(fmt.Errorf("ring: memory of %d bytes: %w", size, err), m.File.Close())
	}
	if _, err := unix.FcntlInt(m.File.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return nil, errors.Join(fmt.Errorf("ring: sealing memory: %w", err), m.File.Close())
	}
	if m.Bytes, err = mapped(fd, size); err != nil {
		return nil, errors.Join(err, m.File.Close())
	}
	return m, nil
}

// mapMemory maps the other process's memory, and refuses what that could take away
// again. It closes f.
func mapMemory(f *os.File, size int) (*Memory, error) {
	defer func() { _ = f.Close() }()
	fd := int(f.Fd())
	has, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err != nil || has&unix.F_SEAL_SHRINK == 0 {
		return nil, fmt.Errorf("ring: what came is no memory that is sealed against shrinking (%w)", errors.Join(err, unix.EINVAL))
	}
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return nil, fmt.Errorf("ring: fstat: %w", err)
	}
	if size <= 0 || size > MaxMemory || stat.Size != int64(size) {
		return nil, fmt.Errorf("ring: memory of %d bytes came, and %d were announced: %w", stat.Size, size, unix.EINVAL)
	}
	b, err := mapped(fd, size)
	if err != nil {
		return nil, err
	}
	return &Memory{Bytes: b}, nil
}

func mapped(fd, size int) ([]byte, error) {
	b, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("ring: mapping memory of %d bytes: %w", size, err)
	}
	return b, nil
}

// Release gives the pages back that lie from off up to off+length. They read as zeroes
// afterwards.
func (m *Memory) Release(off, length int64) error {
	return unix.Fallocate(int(m.File.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, length)
}

// Close unmaps the memory. Nobody may use Bytes any more.
func (m *Memory) Close() error {
	err := unix.Munmap(m.Bytes)
	m.Bytes = nil
	if m.File != nil {
		err = errors.Join(err, m.File.Close())
	}
	return err
}
