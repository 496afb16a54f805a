// SPDX-License-Identifier: Apache-2.0

// Package fdstore is the [store.Store] over an open file. Both stock backends
// use it; a backend whose bytes are a file may do so too.
//
//	f, err := os.OpenFile(path, os.O_RDWR, 0)
//	...
//	disk, err := fdstore.New(f, fdstore.Options{})
//
// New locks the file, so that no two writers serve one image, and owns it from
// then on. How the file is found and opened is the caller's affair. A regular
// file or a block device is served with the exact size it had at New; should
// something shrink it, requests behind its new end fail instead of making up
// zeroes.
//
// # What lies where
//
// [Store] has what is the same for every kind of file: reading, writing,
// durability. What differs is a medium: regular is that of a regular file, block
// that of a block device.
//
// # Block devices
//
// They are read and written through the page cache too, so every byte can be
// addressed, and the kernel does what read-modify-write there is. Zeroing and
// discarding go past the page cache, straight to the device; block says how the
// two are kept apart. A range that was discarded may read as anything. Which
// ranges of a device are holes cannot be asked: all is data.
//
// Open a device with O_EXCL. The kernel then keeps away whoever else asks for it
// with O_EXCL, by whatever name: file systems that want to be mounted, LVM, and
// other servers. The lock alone would not, since it belongs to one device node.
// There is a second reason: zeroing and discarding fail with EBUSY where somebody
// else has the device with O_EXCL and the kernel holds changes for it.
//
// # Durability
//
// Data is in the page cache once a write returns, so it survives the process
// but not a power cut. Flush is fdatasync, which also empties a device's own
// cache. A write with FUA is a pwritev2 with RWF_DSYNC, which writes its own range
// only. Linux reports a write that got lost
// behind the scenes once, to the first sync that comes by; whoever syncs next is
// told that all is well. So the first sync that fails is remembered, and every
// Flush and FUA after it fails with the same error until the file is opened
// anew: see latch.
//
// # Lending
//
// The Store lends its descriptor, and the core reads and writes on it beside the
// Store. Nothing in here takes itself for the descriptor's only user:
//
//   - The bytes are in the page cache and nowhere else. The kernel keeps reads,
//     writes and punches apart, whichever process they come from; that is what two
//     goroutines of this process rely on as well. Only bytes that were asked for are
//     ever changed: the edges that block writes around what a device zeroes are
//     zeroes of the range itself, and never a page read and written back.
//   - Offsets are explicit. Extents moves the descriptor's own, from which nobody
//     reads.
//   - A lost write is reported once to each open file description, and this one is
//     shared. But the report waits for a sync (fsync, fdatasync, sync_file_range, a
//     write with RWF_DSYNC), whoever lost the write; reading, plain writing and the
//     closing of a duplicate leave it where it is. The core does not sync on what it
//     has borrowed. So every report goes to a sync of the Store, and the latch
//     sees it.
//   - fdatasync covers the file, whoever wrote to it.
//   - Whoever borrows has to look out for an end that came nearer, as the Store does.
//   - The lock goes with the last duplicate of the descriptor, a loan's too.
//
// # Locks
//
// The only lock in memory is the one inside latch, held shared around each sync.
// The lock on the file is an OFD lock, see lock_linux.go.
package fdstore
