// SPDX-License-Identifier: Apache-2.0

// Package ringlane is the core's end of lane "ring": requests go to the backend's
// process over a ring ([github.com/flexnbd/flexnbd/sdk/wire/ring]), one for each client
// connection, without a copy and many at a time.
//
// A [Lane] belongs to one disk. Its queues outlive the backend's process; a ring does
// not:
//
//	            no ring yet, flush, FUA, a range that is in use
//	Queue.Submit -------------------------------------------> fallback queue
//	     |
//	     v           completed
//	   ring -----------------------------> sink
//	     | \
//	     |  \ failed                 carried out once more, as a call, which says why
//	     |   +-------------------->  Disk.Call --------> sink
//	     v
//	   the process is lost           once it is gone, as a call to the next one
//	     +------------------------>  Disk.Repeat ------> sink
//
// A payload lies in the queue's memory from when the session borrows it until it
// returns it, whichever way its request goes and whatever becomes of the process. That
// memory is the queue's; the next process gets the same.
//
// # Order
//
// Each request holds its range in the lock that calls to the backend take, from before
// it is sent until it is completed, repeats included. So a repeat never lands on
// anything newer (see core/host).
//
// # What a plugin can do wrong
//
// Whatever comes from the socket is checked: a completion for no request, or for a
// length that was not asked for, ends the ring and is told to the disk ([Process.Broke]).
// A plugin that does not answer a ping is told to it too ([Process.Silent]). What a plugin writes
// into the memory beyond what it was asked reaches no other disk: it is bytes of this
// connection to this disk, and nothing else is kept there.
//
// Locks: the lane's, a ring's inbox, the ring's own, that of a queue's memory, and the range
// lock. A ring's own is taken with its inbox held; otherwise none is with another one held,
// and no sink is called with any. Whoever has a disk's own lock may call [Lane.Use].
package ringlane
