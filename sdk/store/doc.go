// SPDX-License-Identifier: Apache-2.0

// Package store is the contract between flexnbd and a disk's storage: the
// [Store] interface, the facts a store declares about itself, and the errors
// that reach a client. Nothing here does any I/O.
//
// A backend author implements Store and hands it to sdk.ServeBackend; see
// PLUGINS.md for the way from an empty folder to a served disk, sdk/memstore
// for the smallest complete example and sdk/storetest for the suite that
// checks every clause below.
//
// # Concurrency
//
// Every method but Close may be called from many goroutines at once, also for
// overlapping ranges. Two overlapping writes may land in either order, or
// mixed block by block; a read that overlaps a write in flight sees the old or
// the new bytes of each block. Bytes that nobody writes do not change, not even
// for a read beside a write to the rest of their block. A write that has returned
// is seen by every read that starts afterwards. Close is called once, after every other call has
// returned.
//
// # Cancellation
//
// A context that ends asks the store to give up early. The call may still have
// taken effect, wholly or in part, and must not take effect after it returned.
//
// # Buffers
//
// A byte slice belongs to the store from the call to its return and not a
// moment longer: keep a copy of what is needed later. WriteAt must not change
// the slice.
//
// # Errors
//
// An error wraps the errno that the client is told; [Errno] finds it. Its words are for
// the operator, and name the disk. A read, write or punch that has failed may be called
// once more at once, to learn why: what the first call has to say, the second has to
// say too, unless it succeeds. Flush, and what has FUA, is called once.
//
// # Ranges
//
// Offsets and lengths are bytes. The caller keeps every range inside
// [0, Info.Size) without overflow; a store may rely on it. Ranges need not be
// aligned unless [Info.Unaligned] says [RefusesUnaligned].
package store
