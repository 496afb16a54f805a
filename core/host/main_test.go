// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// This binary is also the plugins that the tests start, and a host that one of
// them kills: see roles.
func TestMain(m *testing.M) {
	if role := roles[os.Args[0]]; role != nil {
		role()
		os.Exit(0)
	}
	// A process with the race detector sleeps for a second when it ends, unless
	// it is told not to.
	if err := os.Setenv("GORACE", "atexit_sleep_ms=0"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}
