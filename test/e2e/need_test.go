// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"os"
	"os/exec"
	"testing"
)

// needs skips the test when a program is not installed.
func needs(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			lacks(t, "%s is not installed; .ci/run lists the packages that the tests use", name)
		}
	}
}

// needsRoot skips the test for anybody but root.
func needsRoot(t *testing.T, what string) {
	t.Helper()
	if os.Geteuid() != 0 {
		lacks(t, "only root can %s", what)
	}
}

// lacks ends a test that this machine cannot run. In CI that is a failure: there
// everything is run or the run is worth nothing.
func lacks(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}
