// SPDX-License-Identifier: GPL-3.0-or-later

// Package e2e holds the end-to-end tests: the real binaries, built once, serve
// to the NBD clients that people use (libnbd's tools, qemu's, fio), and each test
// looks at what an operator would see: output, exit status, files, processes.
//
// # How a test looks
//
//	func TestNbdinfoJSON(t *testing.T) {
//		onEachBackend(t, func(t *testing.T, b setting) {
//			s := b.serve(t, 3<<20, "--read-only")
//			text := must(t, "nbdinfo", "--json", s.uri())
//			...
//		})
//	}
//
// onEachBackend runs a test for a file, a loop device and a disk in a plugin's memory,
// with each lane and each transport once at least. onEachLane is for what only a file can show. serve
// is for tests that need one server of a certain kind, listen is the same for one that
// waits for a disk.
//
// Tests of migrations are in files called migrate_*. Package test/journal puts load on
// the disk and judges afterwards what the servers have answered; newPeer is a destination
// that the test plays itself. What a migration must not have reached before the test has
// looked at it is kept away by a low --max-speed, which hurry takes off.
//
// Each of them starts a server with a control socket, returns when it is ready,
// and at the end of the test stops it and checks that it ended well: exit status
// 0, no control socket, no plugin and no temporary file left. must runs a client
// and fails the test if the client fails.
//
// What is decided by a command line alone, and so reads best as one, is a script
// in test/script; script_test.go lists the commands that scripts have.
//
// # What it needs
//
// A client that is missing, or a right that only root has, skips the test with a
// sentence; with CI set in the environment it fails it. FLEXNBD_E2E_RACE=1 builds
// the binaries with the race detector.
package e2e
