// SPDX-License-Identifier: Apache-2.0

package filelane

import (
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/sdk/wire"
)

// file is a lent descriptor and what is known about it.
type file struct {
	lent   *wire.Lent
	fd     int
	memory bool        // tmpfs: nothing on it waits for a device
	waits  atomic.Bool // it has no RWF_NOWAIT: any read may wait
	blind  atomic.Bool // there is no cachestat: nobody can say what is cached

	// What may wait for the device. Tests replace them.
	pread, pwrite transfer
}

// transfer moves bytes at an offset of a descriptor: some, or all.
type transfer func(fd int, p []byte, off int64) (int, error)

// newFile finds out about a descriptor. What can't be found out counts against it.
func newFile(lent *wire.Lent) *file {
	f := &file{lent: lent, fd: lent.FD(), pread: unix.Pread, pwrite: unix.Pwrite}
	var fs unix.Statfs_t
	if unix.Fstatfs(f.fd, &fs) == nil && int64(fs.Type) == unix.TMPFS_MAGIC { //nolint:unconvert // Type's type differs between machines
		var st unix.Stat_t
		// A device node may lie on a tmpfs; /dev is one.
		f.memory = unix.Fstat(f.fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG
	}
	return f
}

const (
	// longRead is the shortest read, in bytes, that may be lent, or left to a
	// goroutine although its pages are cached. Below it either costs more than
	// copying the bytes at once.
	longRead = 128 << 10
	// hugeRead is the shortest read, in bytes, whose copy would not stay in a
	// CPU's cache until it is sent.
	hugeRead = 512 << 10
	// probeStep is how far apart a long read looks whether its pages are ready.
	probeStep = 64 << 10
)

var pageMask = int64(os.Getpagesize() - 1)

// writesAtOnce says whether a write needs nothing but the page cache. A page that
// is written in part has to be read before, unless it is cached.
func (f *file) writesAtOnce(r *wire.Request) bool {
	if f.memory {
		return true
	}
	start, end := r.Offset, r.Offset+r.Length
	return (start&pageMask == 0 || f.ready(start)) && (end&pageMask == 0 || f.ready(end-1))
}

// readCached reads what is in the page cache from off on, up to the first page
// that is not, and returns how much that was.
func (f *file) readCached(p []byte, off int64) int {
	switch {
	case f.memory:
		n, err := f.pread(f.fd, p, off)
		if err != nil {
			return 0
		}
		return n
	case f.waits.Load():
		return 0
	}
	return f.readNow(p, off)
}

// readNow is readCached on what has RWF_NOWAIT, or is asked whether it has.
func (f *file) readNow(p []byte, off int64) int {
	n, errno := preadNow(f.fd, p, off)
	if errno == unix.EOPNOTSUPP {
		f.waits.Store(true)
	}
	return n
}

// ready says whether the byte at off can be read without waiting.
func (f *file) ready(off int64) bool {
	var one [1]byte
	return f.memory || !f.waits.Load() && f.readNow(one[:], off) == 1
}

// lends says whether the bytes of a read can be sent from the descriptor without
// waiting: sendfile has no RWF_NOWAIT. All pages have to be there (cachestat), and
// some of them are tried, since those that are only just being read in are there,
// too. Reads run ahead in steps much longer than probeStep, first page first.
//
// tmpfs lends nothing: its pages are small, and sendfile costs more for each of
// them than to copy it.
func (f *file) lends(r *wire.Request) bool {
	if r.Length < longRead || f.memory || f.blind.Load() || f.waits.Load() {
		return false
	}
	if !f.cached(r.Offset, r.Length) {
		return false
	}
	end := r.Offset + r.Length
	for off := r.Offset; off < end; off += probeStep {
		if !f.ready(off) {
			return false
		}
	}
	return f.ready(end - 1)
}

// cached says whether every page of a range is in the page cache.
func (f *file) cached(off, length int64) bool {
	where := unix.CachestatRange{Off: uint64(off), Len: uint64(length)}
	var is unix.Cachestat_t
	if err := unix.Cachestat(uint(f.fd), &where, &is, 0); err != nil {
		f.blind.Store(true) // before Linux 6.5, or the file is another user's
		return false
	}
	first, last := off&^pageMask, (off+length+pageMask)&^pageMask
	return int64(is.Cache)*(pageMask+1) >= last-first
}
