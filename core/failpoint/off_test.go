// SPDX-License-Identifier: GPL-3.0-or-later

//go:build !failpoints

package failpoint

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestWithoutTheTagPointsDoNothing(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	t.Setenv("GOFAIL_FAILPOINTS", `source-held=return("kill")`)
	t.Setenv("FLEXNBD_FAILPOINT_LOG", log)
	if err := Hit("source-held"); err != nil || Enabled {
		t.Errorf("Hit returned %v, Enabled is %v", err, Enabled)
	}
	if _, err := filepath.EvalSymlinks(log); err == nil {
		t.Error("the log was made")
	}
}

func TestWithoutTheTagThereIsNoGofailAndNoCall(t *testing.T) {
	deps, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(deps), "gofail") {
		t.Error("gofail is part of a normal build")
	}
	if inlined, err := exec.Command("go", "build", "-gcflags=-m", ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, inlined)
	} else if !strings.Contains(string(inlined), "can inline Hit") {
		t.Errorf("the compiler does not inline Hit: %s", inlined)
	}
}
