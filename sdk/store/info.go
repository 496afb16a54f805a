// SPDX-License-Identifier: Apache-2.0

package store

import "fmt"

// Info is what a store says about itself.
type Info struct {
	// Size of the disk in bytes, 0 or more. It need not be a multiple of
	// anything.
	Size int64

	// MinBlock is the smallest unit the store handles natively, in bytes: a
	// power of two from 1 to [MaxMinBlock]. PreferredBlock is the unit that
	// it handles best, a power of two, at least MinBlock and 512. 0 in
	// either means that the store has no opinion.
	MinBlock, PreferredBlock uint32

	// Unaligned says who does the read-modify-write when a request is not a
	// multiple of MinBlock.
	Unaligned Unaligned

	// ReadOnly: WriteAt and PunchHole fail with [ErrReadOnly].
	ReadOnly bool

	// FUA says how the store honours [FUA].
	FUA Support

	// CanPunch: PunchHole frees space. Without it PunchHole still zeroes.
	CanPunch bool
	// CanKeepAllocated: PunchHole honours [KeepAllocated].
	CanKeepAllocated bool
	// CanFast: PunchHole honours [Fast].
	CanFast bool
	// CanDiscard: PunchHole does something cheaper than zeroing with
	// [Discard], and the range may read as anything afterwards. Without it the
	// flag changes nothing, and the range reads as zeroes. A store that wraps
	// another one, and passes flags on, says what that one says; or it says no, and
	// has to take [Discard] out of the flags, which that one would heed.
	CanDiscard bool
	// CanExtents: Extents knows more than "all data".
	CanExtents bool

	// Identity names the disk for good, wherever it is found: a device's WWID,
	// say. At most [MaxIdentity] bytes of printable ASCII without spaces. Empty
	// where the location is all there is, as for a file. Records about the disk
	// are kept under it.
	//
	// After a crash flexnbd compares the whole Info of the disk that the new process
	// has opened with that of the old one's, but for CanPunch, CanFast, CanDiscard and
	// CanExtents, and refuses another. So what must not change under clients belongs
	// in here: of a remote image its version, such as an ETag or a hash of it.
	Identity string

	// Survives says what a new process that opens this disk still finds of
	// what a crashed one had acknowledged. A store that never writes says
	// [SurvivesAcknowledged]: nothing can be lost, and it is restarted.
	Survives Survival

	// Replayable: once a process is dead, none of its writes can still land.
	// True for local files and devices, false for most network stores, where
	// a packet may be on its way, and true for a store that never writes. Only
	// then may writes that were in flight at a crash be repeated.
	Replayable bool
}

// Limits on what a store may declare.
const (
	MaxMinBlock  = 64 << 10
	MaxPreferred = 32 << 20
	MaxIdentity  = 200
	MaxSize      = 1<<63 - 1 - MaxPreferred
)

// Unaligned says what happens to requests that are not a multiple of MinBlock.
type Unaligned uint8

const (
	// HandlesUnaligned: the store does any read-modify-write by itself, and
	// does it so that two requests for one block do not undo each other, and that
	// the bytes around what is written do not change for those who read them.
	HandlesUnaligned Unaligned = iota
	// RefusesUnaligned: the store takes only multiples of MinBlock. The SDK
	// puts package align in front of it, which does all of that: the store sees no
	// read of a block beside a write that puts back a part of it. It may store a
	// block otherwise each time, and need not write it in one step.
	RefusesUnaligned
)

// Support grades an ability.
type Support uint8

const (
	// None: the store ignores the flag; a caller has to do without.
	None Support = iota
	// Emulated: works, by a full flush behind the scenes.
	Emulated
	// Native: works, and costs only its own range.
	Native
)

// Survival grades what outlives the process.
type Survival uint8

const (
	// SurvivesNothing: everything is gone with the process, as in memory.
	SurvivesNothing Survival = iota
	// SurvivesFlushed: whatever a Flush or FUA covered is still there.
	SurvivesFlushed
	// SurvivesAcknowledged: whatever was acknowledged is still there; only a
	// power cut can take unflushed writes.
	SurvivesAcknowledged
)

// Check returns nil, or an error that names the first fact that cannot be.
// A host calls it before it believes a plugin.
func (i Info) Check() error {
	switch {
	case i.Size < 0 || i.Size > MaxSize:
		return fmt.Errorf("size %d is outside 0 to %d", i.Size, int64(MaxSize))
	case i.MinBlock != 0 && !powerOfTwo(i.MinBlock), i.MinBlock > MaxMinBlock:
		return fmt.Errorf("minimum block %d is no power of two up to %d", i.MinBlock, MaxMinBlock)
	case i.PreferredBlock != 0 && !powerOfTwo(i.PreferredBlock), i.PreferredBlock > MaxPreferred:
		return fmt.Errorf("preferred block %d is no power of two up to %d", i.PreferredBlock, MaxPreferred)
	case i.PreferredBlock != 0 && (i.PreferredBlock < i.MinBlock || i.PreferredBlock < 512):
		return fmt.Errorf("preferred block %d is below the minimum block %d or 512", i.PreferredBlock, i.MinBlock)
	case i.Unaligned > RefusesUnaligned:
		return fmt.Errorf("unknown way %d with unaligned requests", i.Unaligned)
	case i.Unaligned == RefusesUnaligned && i.MinBlock > 1 && i.Size%int64(i.MinBlock) != 0:
		return fmt.Errorf("size %d is no multiple of the minimum block %d, which unaligned requests need", i.Size, i.MinBlock)
	case i.FUA > Native:
		return fmt.Errorf("unknown grade %d of FUA", i.FUA)
	case !ValidIdentity(i.Identity):
		return fmt.Errorf("identity %.220q is not up to %d bytes of printable ASCII without spaces", i.Identity, MaxIdentity)
	case i.Survives > SurvivesAcknowledged:
		return fmt.Errorf("unknown grade %d of survival", i.Survives)
	}
	return nil
}

// ValidIdentity says whether id can be an [Info.Identity].
func ValidIdentity(id string) bool {
	for _, c := range []byte(id) {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return len(id) <= MaxIdentity
}

func powerOfTwo(n uint32) bool { return n&(n-1) == 0 }
