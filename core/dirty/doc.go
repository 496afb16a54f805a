// SPDX-License-Identifier: GPL-3.0-or-later

// Package dirty remembers which parts of a disk have yet to be copied.
//
// A [Bitmap] has one bit for each [Granule] of 64 KiB: 2 MiB of memory for a disk
// of 1 TiB. Writers to the disk set bits, one or more copiers look for them and
// take them off:
//
//	b := dirty.New(size)
//	b.MarkAll()
//	for from := int64(0); ; {
//		off, n, ok := b.Next(from, 1<<20)
//		if !ok {
//			break // or start again at 0, as long as b.Bytes() > 0
//		}
//		b.Clear(off, n)
//		copyRange(off, n) // reads the disk
//		from = off + n
//	}
//
// The order is what keeps a change from being lost. A writer changes the disk and
// then marks; a copier clears and then reads the disk. If the copier's clear comes
// after the mark, its read comes after the change and carries it; if it comes
// before, the mark stays and the range is copied again. A copier that read first
// and cleared then would throw away the mark of a change that it has not seen.
// A range has to be marked again when its copy fails.
//
// All methods may be called by any goroutine at any time and none ever waits: the
// bits are words that are changed with atomic operations, which Go orders as one
// sequence for all goroutines. What a method says about many granules is not one
// moment of all of them, so [Bitmap.Next] and [Bitmap.Bytes] tell what was so
// while they looked.
//
// What the package does not do: it knows nothing of disks, does not say who copies
// what, and does not keep two copiers from taking the same range; a caller with
// several has to see to that.
package dirty
