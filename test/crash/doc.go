// SPDX-License-Identifier: GPL-3.0-or-later

// Package crash migrates disks between real processes and breaks something on the
// way: it kills or stops a process at a named step (see package core/failpoint),
// makes a step fail, cuts a connection after any byte. It has no code outside of its
// tests.
//
//	go test ./test/crash                             # a few dozen seconds
//	go test ./test/crash -run '^TestCrash$/^commit-lost$'
//	go test ./test/crash -tags soak -run Soak -timeout 0 -v
//
// Each subtest of TestCrash is a row of docs/reliability.md, of the same name. A
// row has two machines. A serves a disk, B waits for it, clients (package
// test/journal) read and write wherever they find the disk, and the row's fault
// happens. Then whatever died is started again with the command that an operator or a
// service manager would use, until everything has settled.
//
// # What is asked after each
//
// A scenario's judge returns an error for each of these that does not hold:
//
//   - the records beside the images name exactly one owner (core/owner's rule),
//   - exactly one server lets clients in, and it is that one,
//   - the history of all clients, over both servers, with the owner's image as the
//     last read, is linearizable: nothing acknowledged is lost, no read goes back,
//   - the servers took turns as expected, and never answered at the same time,
//   - no client has lost its connection as long as the source surely had the disk,
//     unless it was the source that died,
//   - no half-written record and no process is left.
//
// Whether the judge can say no is a test of its own: the tests of sabotage break one
// invariant each by hand (two servers of one disk, an old image put in place, a
// record removed, a client thrown out) and want the complaint.
//
// # Long runs
//
// With the build tag soak, connections are cut at every byte, and TestSoakOfRandomKills
// kills both sides at random moments and random points, from A to B and back and again
// and again:
//
//	FLEXNBD_SOAK_KILLS=1000   so many kills (300)
//	FLEXNBD_SOAK_SEEDS=20     so many migrations of 1 GiB (5)
//	FLEXNBD_SOAK_SEED=7       the first seed (1)
//
// FLEXNBD_CRASH_RACE=1 builds the program with the race detector.
//
// What the package does not do: power cuts, which need a file system that forgets
// (core/owner), and other backends than files, which test/e2e migrates between.
package crash
