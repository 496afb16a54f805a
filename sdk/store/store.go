// SPDX-License-Identifier: Apache-2.0

package store

import "context"

// Store is one disk. The package comment has the rules on concurrency,
// cancellation and buffers that hold for every method.
type Store interface {
	// Info returns the facts about this disk. They do not change while the
	// store is open: the caller asks once and keeps the answer.
	Info() Info

	// ReadAt fills p with the bytes at off. It either fills all of p or
	// returns an error; after an error the content of p is undefined.
	ReadAt(ctx context.Context, p []byte, off int64) error

	// WriteAt stores p at off: all of it, or an error. After an error any
	// part of the range may hold old or new bytes. Flags: [FUA].
	WriteAt(ctx context.Context, p []byte, off int64, flags Flags) error

	// PunchHole makes length bytes at off read as zeroes, and gives their
	// space back where the store can. Zeroes are the contract, space is a
	// kindness: a store that cannot free space writes zeroes.
	//
	// Flags: [FUA], [KeepAllocated], [Fast], [Discard].
	PunchHole(ctx context.Context, off, length int64, flags Flags) error

	// Extents returns the extent map from off onwards, for a length of more
	// than 0: at least one extent, the first one starting at off, each starting where the last one ended,
	// none of length 0, none reaching past off+length. They may end early;
	// the caller asks again from there. A store that knows nothing returns
	// one extent of data that covers the whole range (see [AllData]).
	//
	// An extent that says [Zero] reads as zeroes at the moment it is
	// returned, provided that no write overlaps the call.
	Extents(ctx context.Context, off, length int64) ([]Extent, error)

	// Flush returns once every write and punch that had returned before
	// Flush was called would survive a power cut. An error means that some
	// of them may be lost, for good: flushing again cannot bring them back.
	// A WriteAt or PunchHole with FUA may fail because other writes were lost
	// while it made its own durable; then the next Flush fails too.
	Flush(ctx context.Context) error

	// Close releases the disk. It does not have to flush.
	Close() error
}

// Flags modify a write or a punch. A store that was given a flag which its
// [Info] does not announce may return [ErrNotSupported].
type Flags uint32

const (
	// FUA (force unit access): do not return before this range would survive
	// a power cut.
	FUA Flags = 1 << iota
	// KeepAllocated asks PunchHole to leave the range allocated, so that a
	// later write cannot run out of space.
	KeepAllocated
	// Fast asks PunchHole to return [ErrNotSupported] at once, having
	// changed nothing, where it would be no faster than writing zeroes.
	Fast
	// Discard tells PunchHole that the caller does not care what the range
	// reads as afterwards. A store with [Info.CanDiscard] may then do something
	// cheaper than zeroing, or nothing; any other zeroes all the same.
	Discard
)

// Extent is a run of bytes in the same state.
type Extent struct {
	Offset int64 // first byte
	Length int64 // in bytes, more than 0
	State  State
}

// End returns the offset of the first byte behind the extent.
func (e Extent) End() int64 { return e.Offset + e.Length }

// State says what is known about an extent. Hole and Zero are facts of their
// own: a preallocated range is Zero and no Hole, a discarded range of a device
// may be a Hole that reads as anything.
type State uint8

const (
	// Hole: no space is allocated.
	Hole State = 1 << iota
	// Zero: reads as zeroes.
	Zero

	// Data is allocated and may hold anything.
	Data State = 0
)

// String returns "data", "hole", "zero" or "hole,zero".
func (s State) String() string {
	switch s {
	case Data:
		return "data"
	case Hole:
		return "hole"
	case Zero:
		return "zero"
	case Hole | Zero:
		return "hole,zero"
	}
	return "invalid"
}

// AllData is the extent map of a store that knows nothing about the range.
func AllData(off, length int64) []Extent {
	return []Extent{{Offset: off, Length: length, State: Data}}
}
