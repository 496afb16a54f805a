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
// file is served with the exact size it had at New; should another program
// shrink it, reads behind its new end fail instead of making up zeroes.
//
// # What lies where
//
// [Store] has what is the same for every kind of file: reading, writing,
// durability. What differs is a medium: a regular file has its own, a block
// device would have one in a file beside it.
//
// # Durability
//
// Data is in the page cache once a write returns, so it survives the process
// but not a power cut. Flush is fdatasync. A write with FUA is a pwritev2 with
// RWF_DSYNC, which costs its own range only. Linux reports a write that got lost
// behind the scenes once, to the first sync that comes by; whoever syncs next is
// told that all is well. So the first sync that fails is remembered, and every
// Flush and FUA after it fails with the same error until the file is opened
// anew: see latch.
//
// # Locks
//
// The only lock in memory is the one inside latch, held shared around each sync.
// The lock on the file is an OFD lock, see lock_linux.go.
package fdstore
