// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/flexnbd/flexnbd/core/launch"
)

// This binary is also the plugins that the tests start, and a host that one of
// them kills: see roles.
func TestMain(m *testing.M) {
	if launch.IsLauncher(os.Args) {
		if err := ServeLauncher(); err != nil {
			panic(err)
		}
		return
	}
	if launch.IsChild(os.Args) {
		args, _, err := launch.Become()
		if err != nil {
			os.Exit(1)
		}
		os.Args = args
	}
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
