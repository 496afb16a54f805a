// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestGoInstall(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "go", "install", "./cmd/...")
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "GOBIN="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go install ./cmd/...: %v\n%s", err, out)
	}
	if got := must(t, filepath.Join(dir, "flexnbd"), "version"); !strings.HasPrefix(got, "flexnbd ") {
		t.Errorf("flexnbd version printed %q", got)
	}
	for _, plugin := range []string{"flexnbd-backend-file", "flexnbd-backend-blockdev", "flexnbd-transport-tcp", "flexnbd-transport-unix"} {
		// Run by a person they say what they are.
		if r := run(t, nil, filepath.Join(dir, plugin)); r.status != 1 || !strings.Contains(r.stderr, "flexnbd serve") {
			t.Errorf("%s: exit status %d, %q", plugin, r.status, r.stderr)
		}
	}
}
