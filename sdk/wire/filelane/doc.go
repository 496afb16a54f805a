// SPDX-License-Identifier: Apache-2.0

// Package filelane is the fastest way between the core and a backend: the core
// reads and writes by itself, on a descriptor that the backend has lent
// ([store.Lender]), and calls the backend only for what bytes alone don't do.
//
// A [Lane] belongs to one disk. It holds the loan, which comes and goes while
// requests are under way, and makes a queue for each connection:
//
//	                 no loan, punch, flush, FUA, errors
//	Queue.Submit ------------------------------------------> fallback queue
//	     |
//	     |  read of cached pages, write: at once, on the caller's goroutine
//	     |
//	     +--> anything that may take its time: a goroutine, at most maxSlow of them
//
// What is done at once is completed together, with one call of the sink, so that
// many replies leave with one system call. A long read of cached pages that is alone
// moves no byte: it completes with the descriptor (wire.Request.Lent), and whoever
// asked sends the bytes straight from the page cache. Several are copied side by side,
// each by a goroutine.
//
// # What may wait
//
// Submit does no I/O that waits for a device. A read is tried with RWF_NOWAIT,
// which ext4, XFS, Btrfs and block devices know: what is not in the page cache
// says so. tmpfs does not know it and need not. Of any other file system
// everything is left to goroutines. A write goes to the page cache at once, unless
// it covers a page in part that would have to be read first, or a write has had to wait
// a moment ago (stall.go).
//
// # Errors
//
// A request that the descriptor fails is asked of the backend anew, through the
// fallback queue: it fails there too, and the backend says why, naming its disk,
// or it does better.
//
// # Order
//
// A change that the backend carries out may be repeated after its process has
// crashed (see core/host), and must then not land on anything newer. So writes
// take the same range lock as calls to the backend do, each for itself, and a
// write that would have to wait for it does so on a goroutine, outside the loan: a
// loan ends when nobody is inside, and nobody inside waits for a call to the backend.
//
// Locks: the lane has one of its own, which is held for no call but those of its
// tables. The range lock comes before it.
package filelane
