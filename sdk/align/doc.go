// SPDX-License-Identifier: Apache-2.0

// Package align makes a byte-granular disk of one that takes only whole blocks.
//
//	disk := align.New(blocks)
//
// Where blocks says [store.RefusesUnaligned], the result says
// [store.HandlesUnaligned] and does the read-modify-write by itself. Any other
// store comes back as it is. The SDK calls New for every backend; a backend's
// author has no need to.
//
// A request is cut at block boundaries into at most three pieces: a head and a
// tail, each a part of one block, and a middle of whole blocks that passes
// through without a copy. Small requests go as one piece. Heads and tails are
// read, changed and written back as whole blocks.
//
// It does not split large requests, does not cache, and adds no durability: FUA
// is passed on with every piece.
//
// # Promises
//
// Bytes that no client writes do not change, neither for good nor for a moment,
// whatever is written beside them in their block. For that the store behind need not
// do more than read and write whole blocks: they may be stored otherwise each time,
// compressed, or with another IV or checksum, and be rubbish while they are being
// written. Requests for the same bytes at the same time are the clients' affair, and
// get what the store behind makes of them.
//
// A write-back that fails, or a process that ends in the middle of one, leaves what
// the store behind leaves of a block that it was writing, and that is for the store to
// see to.
//
// # The locks
//
// A read-modify-write that overlaps another write to the same block could put
// back old bytes over new ones. So writes lock the blocks they touch: a
// read-modify-write alone ("exclusive"), a write or punch of whole blocks
// together with others of its kind ("shared"). Requests are served in the order
// in which they came, so that neither kind starves. Requests for other blocks
// do not wait.
//
// Reads, and questions for extents, are kept apart from write-backs alone: what a
// read-modify-write puts back beside its own bytes is what was there before, but who
// reads them meanwhile might see something else. A write-back waits for the reads that
// touch its blocks, and then they wait for it. Reads are no users of the lock above as
// long as nothing at all is written back, since even a shared lock would cost them
// more than they can spare; readers has the way around.
//
// Each piece of a request takes and gives back its lock before the next piece starts.
// The only one who holds two things is a write-back: first its blocks' lock, then, by
// waiting for those who read there, their places. A reader that has a place waits for
// nothing but the store behind.
package align
