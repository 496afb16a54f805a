// SPDX-License-Identifier: GPL-3.0-or-later

// Package e2e holds the end-to-end tests: the real binaries, built once, serve
// to the NBD clients that people use (libnbd's tools, qemu's, fio), and each test
// looks at what an operator would see: output, exit status, files, processes.
//
// # How a test looks
//
//	func TestSizeIsExact(t *testing.T) {
//		onEachBackend(t, func(t *testing.T, b backend) {
//			s := serve(t, b.disk(t, 12345)...)
//			if got := must(t, "nbdinfo", "--size", s.uri()); got != "12345\n" { ... }
//		})
//	}
//
// serve starts a server on 127.0.0.1 with port 0 and a control socket, returns
// when it is ready, and at the end of the test stops it and checks that it ended
// well: exit status 0, no control socket, no plugin and no temporary file left.
// must runs a client and fails the test if the client fails.
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
