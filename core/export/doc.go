// SPDX-License-Identifier: GPL-3.0-or-later

// Package export is one served disk: a [store.Store], the gate that all of its
// requests pass, and what is known about its zeroes.
//
//	e, err := export.Open(ctx, disk, export.Options{Logger: log})
//	q := e.NewQueue(connCtx, sink) // one for each client connection
//	q.Submit(requests)
//	...
//	q.Close()
//	e.Close(ctx)
//
// The queue of an Export is a [wire.Queue] like any lane's, so a session does
// not notice what happens in between:
//
//   - every request is inside the [Gate] from Submit until just before the sink
//     sees it. Nobody waits for a client's socket in there;
//   - a write leaves out what is zeroes and known to be zeroes; a read or a
//     zeroing of known zeroes does not reach the store;
//   - FUA is honoured whatever the store can do, and a flush that failed fails
//     for everybody from then on (type flusher).
//
// Every write to the disk has to go through a queue of its Export while that is
// open. Package export does not know NBD, does not split large requests (it
// asserts that the session has done so, at [wire.MaxPayload] and
// [MaxZeroPiece]), does not start or watch plugins, and keeps nothing on disk.
//
// # The zero map
//
// One bit for each block of 4 KiB. Set, it says: every byte of this block reads
// as zero, and no write that could change this is under way. It may be clear
// for no reason. What is at stake is data: a bit that is set over data makes a
// read return zeroes, and makes a write of zeroes leave the data in place.
//
// Bits are set from two sources, a PunchHole that succeeded and an extent that
// says Zero. Both tell what was true at some moment between the call's begin
// and its end, while the bit has to be true later, when it is set. So both
// leave a note first and look at it last. The disk is divided into regions of
// 1 MiB, each of which belongs to one of 1024 stripes (region modulo 1024); a
// stripe has a lock, the number of writes in flight, and a number that counts
// the writes begun (seq).
//
//	write:    for each stripe touched, locked: writers++, seq++, clear the bits
//	          the store's WriteAt
//	          for each, locked: writers--           (also after an error)
//
//	zeroing:  for each, locked: note seq, or "writing" if writers > 0
//	          the store's PunchHole, or Extents
//	          for each, locked: if seq is as noted, set the bits of whole blocks
//
// Why a set bit is true. Take the moment when a zeroing sets bits in a stripe.
// Since seq is as noted, no write has begun between the note and this moment;
// since the note was not "writing", none that began earlier was under way at
// the note. Hence no write of the stripe was under way at any time between, the
// store's call included. The store's answer is therefore about blocks at rest,
// and nothing has happened to them since. A write that begins later needs the
// stripe's lock, and clears the bits before it reaches the store. Thus the
// three ways to lose data are closed: a write that begins and ends during the
// zeroing (seq differs), one that was there before and ends during it
// ("writing"), and one that is still under way at its end (one of the two).
// Regions of one stripe disturb each other; that only leaves bits clear.
//
// Reading bits takes no lock. A read or zero write that finds its bits set
// takes effect at that moment. Requests that overlap in time may take effect in
// any order, so a write that begins a moment later is in order after it; one
// that had begun earlier would have cleared the bits. If its bits are read one
// after another, each block takes effect at its own moment, which the Store's
// contract allows for any request.
//
// Zeroings do not disturb each other, as each leaves the other's blocks zero. One
// that fails leaves old or new bytes, and of a block whose bit is set both are
// zero; even so its bits are cleared and seq is raised, for stores that zero in
// several steps. A PunchHole with Discard may leave anything, and counts as a
// write. So does one with KeepAllocated, see countsAsWrite.
//
// A write that was cut into runs counts as one write for each run. What lies
// between has been left out, keeps its bits, and is none of its business.
//
// A block at the end of a disk that is no multiple of 4 KiB counts as whole when
// the range reaches the disk's end. Memory is taken when the first bit of 1 GiB
// is set, up to 64 MiB, which is enough for 2 TiB of zeroes; what lies beyond
// that, or beyond the first PiB, is treated as data.
//
// # Locks
//
// Gate.mu, stripe.mu and flusher.mu are leaves: no other lock is taken and no
// store or sink is called while one of them is held. Nobody holds two stripes.
package export
