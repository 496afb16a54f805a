// SPDX-License-Identifier: GPL-3.0-or-later

// Package owner keeps the durable records that say whether the disk beside
// them is to be served: is this copy the right one, is it only half there, or
// has it been given away? A migration's hand-over is safe because these records
// change in a certain order, and because none is believed before a power cut can
// no longer undo it.
//
//	place, err := owner.Beside("/srv/disk.img") // or owner.InState("/var/lib/flexnbd", key)
//	records, err := owner.Open(owner.Disk, place) // once the image's lock is held
//	defer records.Close()
//	switch records.State().Verdict() {
//	case owner.VerdictOwner: // serve
//	default:
//		return errors.New(records.State().Explain(place))
//	}
//
// # The records
//
// They are files, in JSON, beside the image or in a state directory:
//
//	<FILE>.INCOMPLETE     destination   not to be served yet: plain, or prepared for one id
//	<FILE>.RECEIVED       destination   the id that was taken over last
//	<FILE>.MIGRATED.next  source        the id that a destination may be prepared for
//	<FILE>.MIGRATED       source        given away: id, where to, acknowledged or not
//
// .INCOMPLETE goes before every other, and .MIGRATED before .RECEIVED and
// .MIGRATED.next, neither of which keeps anybody from serving. So:
//
//	                 +------------------- Expect --------------------+
//	                 v                                               |
//	.INCOMPLETE: plain --Prepare--> prepared --TakeOver--> .RECEIVED (or nothing)
//	     ^   ^           <--Withdraw--                               |
//	     |   |                                                     Intend
//	     |   |                                                       v
//	  Expect |                                                .MIGRATED.next
//	     |   |                                                  |        ^
//	     |   +-- (Expect ends what a crash interrupted)      Depart   IgnoreDeparture
//	     |                                                      v        |
//	     +----------- .MIGRATED, acknowledged <--Acknowledge-- .MIGRATED
//	                         |
//	                       Forget (after --unlink)
//
// # What is promised
//
// A method that returns nil has changed the records durably: whatever happens
// then, [Open] finds the new state. One that returns an error has left the old
// state or the new one, never a third (Expect and Forget take two steps, and the
// state between is one that goes on to the new one), and [Records.State] then
// says the more careful of the two; the next method begins by finding out. Where
// that is not enough, because who owns the disk would hang on it, the error is
// [ErrUncertain], and this Records does nothing more.
//
// To change a record is to write a temporary file, fsync it, rename it, and fsync
// the directory. [Open] writes anew whatever it finds, since after a failed fsync
// a second one succeeds although nothing was written. A record that cannot be
// read, or that a newer flexnbd wrote, is an error that names the file; nothing is
// removed or guessed then.
//
// What this package does not do: it keeps no lock on an image (only a lock file in
// a state directory, where an image may have none), removes no image, and knows
// nothing of connections. Images with several hard links are found by one name
// only.
//
// # Concurrency
//
// All methods of Records may be called from many goroutines; they run one after
// the other, under one mutex, and wait for the disk.
package owner
