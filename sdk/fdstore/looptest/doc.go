// SPDX-License-Identifier: Apache-2.0

// Package looptest makes loop devices for tests: real block devices whose bytes
// are in a file.
//
//	loop := looptest.New(t, looptest.Options{Size: 1 << 20})
//	f, err := os.OpenFile(loop.Path, os.O_RDWR|unix.O_EXCL, 0)
//
// It takes root. A test that needs a loop device is skipped where there can be
// none, but fails where the environment variable CI is set, so that a build
// cannot turn green by having lost its privileges.
//
// The kernel detaches a device when the last descriptor for it is closed. So
// nothing is left behind, whatever becomes of the test's process.
package looptest
