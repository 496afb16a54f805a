// SPDX-License-Identifier: GPL-3.0-or-later

package sandboxtest

import (
	"os"
	"testing"
)

// Need ends a test for which the kernel's Landlock is too old, or which finds no seccomp.
// In CI that is a failure: there everything is run or the run is worth nothing.
func Need(t testing.TB, landlock int, seccomp bool) {
	t.Helper()
	const least = 6
	if landlock >= least && seccomp {
		return
	}
	end := t.Skipf
	if os.Getenv("CI") != "" {
		end = t.Fatalf
	}
	end("this kernel has Landlock %d and seccomp: %v; this test needs Landlock %d (Linux 6.12) and seccomp", landlock, seccomp, least)
}
