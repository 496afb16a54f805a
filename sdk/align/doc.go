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
// # The lock
//
// A read-modify-write that overlaps another write to the same block could put
// back old bytes over new ones. So writes lock the blocks they touch: a
// read-modify-write alone ("exclusive"), a write or punch of whole blocks
// together with others of its kind ("shared"). Requests are served in the order
// in which they came, so that neither kind starves. Requests for other blocks
// do not wait. Reads take no lock: what the read-modify-write puts back beside
// its own bytes is what was there before.
//
// Each piece of a request takes and gives back its lock before the next piece
// starts. Nobody ever holds two, so there is no lock order to keep.
package align
