// SPDX-License-Identifier: GPL-3.0-or-later

// Package crashfs is a file system in memory that forgets at a power cut whatever
// was not fsynced. A killed process cannot show a missing fsync, since the kernel
// keeps what was written; this can.
//
//	disk := crashfs.New()
//	disk.WriteFile("/srv/disk.img.MIGRATED", text) // durable, and so are the folders above
//	disk.StopAt(3)                                  // the power fails before the fourth operation
//	...run the code under test, which sees ErrPowerCut from there on...
//	for after := range disk.Crashes(1000, seed) {   // everything that the disk may hold now
//		...look at after, which is an FS like the first...
//	}
//
// [FS.Crash] is the power cut after which nothing is left but what was fsynced,
// [FS.CrashSeed] one after which chance has kept some of the rest, [FS.Crashes] all
// of them, and [FS.Kill] the end of the process alone, which loses nothing. None of
// them changes the FS that they are called on: one run can end in many ways.
//
// [FS.FailAt] makes an operation fail, [FS.FailDoneAt] makes one report an error
// after it was carried out, as a network's file system may. [FS.Ops] lists what was
// done. [FS.IgnoreFileSync] and [FS.IgnoreDirSync] make fsyncs do nothing: with
// them a test of durability must fail, or it shows nothing.
//
// # What may survive
//
// The model is as unkind as the rules of POSIX allow, within what file systems do:
//
//   - A file's data, by itself: what was there at its last fsync, or nothing, or half
//     of what was written since, or zeroes in its length, or all of it. An fsync of
//     a file says nothing of its name.
//   - A directory's changes, each by itself, in their order, where a rename is one
//     change: the old name goes when the new one comes. A new directory is a
//     change of its parent.
//   - After an fsync that failed a second one succeeds and makes nothing durable of
//     what the first should have, until the file is written to, or the directory
//     changed, again. Then the whole of it is written. A directory is one block in
//     this.
//
// What this package does not do: links, permissions, reading directories by other
// than [FS.Names], renames between directories or of directories (EXDEV, EISDIR).
package crashfs
