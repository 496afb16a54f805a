// SPDX-License-Identifier: Apache-2.0

package storetest

import "testing"

// Clause is one sentence of the contract.
type Clause struct {
	Name string // of the subtest, too
	Says string // where the contract says so, and what it says
}

// Clauses returns the whole contract, in the order in which it is checked.
func Clauses() []Clause {
	var all []Clause
	for _, c := range clauses {
		all = append(all, c.public())
	}
	return all
}

// clause is one sentence of the contract and how it is checked.
type clause struct {
	name  string
	says  string
	on    condition // what disks it applies to
	check func(t testing.TB, b *bench)
}

func (c clause) public() Clause { return Clause{Name: c.name, Says: c.says} }

// leftOut says why the clause is not checked, "" if it is.
func (c clause) leftOut(b *bench) (why string) {
	if b.LeaveOut != nil {
		why = b.LeaveOut(c.public())
	}
	if why == "" {
		why = c.on(b)
	}
	return why
}

func (c clause) applies(b *bench) bool { return c.leftOut(b) == "" }

// clauses is the contract, in the order in which a backend grows.
var clauses = []clause{
	{
		"InfoIsPossibleAndDoesNotChange",
		"Info returns the facts about this disk, which pass Info.Check and do not change while the store is open",
		always, infoIsPossibleAndDoesNotChange,
	},
	{"CloseSucceeds", "Close releases the disk; it does not have to flush", always, closeSucceeds},
	{"FreshDiskReadsZeroIntoWholeBuffer", "ReadAt: it either fills all of p or returns an error", always, freshDiskReadsZero},
	{"WritesReadBack", "a write that has returned is seen by every read that starts afterwards", writable, writesReadBack},
	{"WriteChangesItsRangeOnly", "WriteAt stores p at off: all of it, or an error, and nothing beside it", writable, writeChangesItsRangeOnly},
	{"ZeroLengthRequestsDoNothing", "ranges: the caller keeps every range inside [0, Info.Size), and one of length 0 is no error", writable, zeroLengthRequestsDoNothing},
	{"EveryByteOfAnOddSizeIsThere", "Info.Size is in bytes and need not be a multiple of anything", anySize, everyByteOfAnOddSizeIsThere},
	{"DiskOfNoBytesWorks", "Info.Size is 0 or more", anySize, diskOfNoBytesWorks},
	{"LargeRequestsPassWhole", "WriteAt stores p at off: all of it, or an error, however long p is", writable, largeRequestsPassWhole},
	{"UnalignedRequestsAreHandled", "Info.Unaligned: a store that HandlesUnaligned does any read-modify-write by itself", handlesUnaligned, unalignedRequestsAreHandled},

	{"PunchedRangeReadsZero", "PunchHole makes length bytes at off read as zeroes: zeroes are the contract, space is a kindness", writable, punchedRangeReadsZero},
	{"PunchChangesItsRangeOnly", "PunchHole makes length bytes at off read as zeroes, and none beside them", writable, punchChangesItsRangeOnly},
	{"FastPunchSucceedsOrChangesNothing", "Fast asks PunchHole to return ErrNotSupported at once, having changed nothing, where it would be no faster than writing zeroes", writable, fastPunchSucceedsOrChangesNothing},
	{"KeepAllocatedPunchIsHonouredIfAnnounced", "Info.CanKeepAllocated: PunchHole honours KeepAllocated", writable, keepAllocatedPunchIsHonoured},
	{"DiscardChangesItsRangeOnly", "Discard tells PunchHole that the caller does not care what the range, and only that, reads as afterwards", writable, discardChangesItsRangeOnly},
	{"DiscardReadsZeroUnlessAnnounced", "Discard: a store without Info.CanDiscard zeroes all the same", noDiscard, discardReadsZero},

	{"ExtentsAreContiguousAndInRange", "Extents returns at least one extent, the first one starting at off, each starting where the last one ended, none of length 0, none reaching past off+length", always, extentsAreContiguous},
	{"ExtentsCoverTheDiskInTurns", "Extents may end early; the caller asks again from there", always, extentsCoverTheDisk},
	{"ZeroExtentsReadAsZero", "Extents: an extent that says Zero reads as zeroes at the moment it is returned", writable, zeroExtentsReadAsZero},
	{"ExtentsAreAllDataUnlessAnnounced", "Info.CanExtents: without it, Extents knows no more than \"all data\"", noExtents, extentsAreAllData},

	{"FlushSucceedsAndKeepsData", "Flush returns once every write and punch that had returned before would survive a power cut", always, flushSucceedsAndKeepsData},
	{"FUAIsAcceptedIfAnnounced", "Info.FUA: a store that announces FUA takes it; one that does not may return ErrNotSupported", writable, fuaIsAccepted},

	{"BuffersAreNotKept", "buffers: a byte slice belongs to the store from the call to its return and not a moment longer", writable, buffersAreNotKept},
	{"WriteDoesNotChangeItsBuffer", "buffers: WriteAt must not change the slice", writable, writeDoesNotChangeItsBuffer},

	{"EndedContextReturnsPromptly", "cancellation: a context that ends asks the store to give up early", always, endedContextReturnsPromptly},
	{"CancelledWriteDoesNotLandLater", "cancellation: a call must not take effect after it returned", writable, cancelledWriteDoesNotLandLater},

	{"RandomOperationsMatchAModel", "all of it together: reads return what was written or punched last", writable, randomOperationsMatchAModel},
	{"ConcurrentNeighboursDoNotDisturbEachOther", "concurrency: every method but Close may be called from many goroutines at once", writable, concurrentNeighbours},
	{"NeighboursOfASmallWriteDoNotChange", "concurrency: bytes that nobody writes do not change, not even for a read beside a write to the rest of their block", handlesUnaligned, neighboursOfASmallWrite},
	{"OverlappingWritesLeaveBytesOfOne", "concurrency: two overlapping writes may land in either order, or mixed block by block", writable, overlappingWrites},

	{"ReadOnlyDiskRefusesChanges", "Info.ReadOnly: WriteAt and PunchHole fail with ErrReadOnly", readOnly, readOnlyDiskRefusesChanges},

	{"LentDescriptorFitsTheFacts", "Lender: the descriptor is open for what the disk is open for, without O_APPEND and O_DIRECT, and the file as large as Info.Size says", lends, lentDescriptorFitsTheFacts},
	{"LentBytesAreTheDisks", "Lender: a disk's bytes lie in one regular file or block device, each at its own offset", lendsWritable, lentBytesAreTheDisks},
	{"LentNeighboursAreLeftAlone", "Lender: calls change their own range only, and do not write back what they found around it", lendsWritable, lentNeighboursAreLeftAlone},
	{"LoanIsOutUntilItIsReturned", "Loan.Revoke: after nil nothing is under way on the descriptor; until then it is lent", lends, loanIsOutUntilItIsReturned},
}

// condition says why a clause does not apply to the disks, "" if it does.
type condition func(b *bench) (why string)

func unless(applies bool, why string) string {
	if applies {
		return ""
	}
	return why
}

func always(*bench) string { return "" }

func writable(b *bench) string { return unless(!b.info.ReadOnly, "the disk is read-only") }

func readOnly(b *bench) string { return unless(b.info.ReadOnly, "the disk is not read-only") }

func anySize(b *bench) string {
	if b.FixedSize != 0 {
		return "the disk's size is fixed"
	}
	return writable(b)
}

func handlesUnaligned(b *bench) string {
	if b.unit > 1 {
		return "the store refuses unaligned requests, as Info.Unaligned says"
	}
	return writable(b)
}

func noDiscard(b *bench) string {
	if b.info.CanDiscard {
		return "Info.CanDiscard is set, so what was discarded may read as anything"
	}
	return writable(b)
}

func noExtents(b *bench) string { return unless(!b.info.CanExtents, "Info.CanExtents is set") }

func lends(b *bench) string { return unless(b.lends, "the store lends no descriptor") }

func lendsWritable(b *bench) string {
	if !b.lends {
		return lends(b)
	}
	return writable(b)
}
