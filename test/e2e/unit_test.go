// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// systemd finds nothing wrong with the unit, and nothing that it should not let through.
func TestUnitIsSoundAndTight(t *testing.T) {
	t.Parallel()
	needs(t, "systemd-analyze")
	unit := fileText(t, "../../packaging/systemd/flexnbd@.service")
	// It looks whether the program and the manual pages are there.
	unit = strings.Replace(unit, "ExecStart=/usr/bin/flexnbd ", "ExecStart="+programs.flexnbd+" ", 1)
	unit = regexp.MustCompile(`(?m)^Documentation=.*\n`).ReplaceAllString(unit, "")
	path := filepath.Join(t.TempDir(), "flexnbd@web1.service")
	if err := os.WriteFile(path, []byte(unit), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := run(t, nil, "systemd-analyze", "verify", path); r.status != 0 || r.stdout+r.stderr != "" {
		t.Errorf("systemd-analyze verify: exit status %d\n%s%s", r.status, r.stdout, r.stderr)
	}
	// In tenths: below 2 of 10. What it is made of, see the comments in the unit.
	if r := run(t, nil, "systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold=20", path); r.status != 0 {
		t.Errorf("systemd-analyze security: exit status %d\n%s%s", r.status, r.stdout, r.stderr)
	}
}

// The command lines in example.conf are ones that flexnbd takes: only the image is missing,
// and the system's folders are not for every user.
func TestUnitsExamplesAreCommandLines(t *testing.T) {
	t.Parallel()
	text := strings.ReplaceAll(fileText(t, "../../packaging/systemd/example.conf"), "\n# ", "\n")
	examples := regexp.MustCompile(`(?s)\nFLEXNBD_ARGS="(.*?)"\n`).FindAllStringSubmatch(text, -1)
	if len(examples) < 3 {
		t.Fatalf("example.conf has %d examples", len(examples))
	}
	for _, example := range examples {
		line := strings.ReplaceAll(example[1], "\\\n", " ")
		line = strings.ReplaceAll(line, "/srv/", t.TempDir()+"/nowhere/")
		r := run(t, nil, programs.flexnbd, strings.Fields(line)...)
		if r.status != 1 || !strings.Contains(r.stderr, "no such file or directory; create the image first") {
			t.Errorf("flexnbd %s: exit status %d\n%s", line, r.status, r.stderr)
		}
	}
}

// Packages of plugins ask pkg-config where plugins go.
func TestPkgConfigSaysWherePluginsGo(t *testing.T) {
	t.Parallel()
	needs(t, "pkg-config")
	text := strings.NewReplacer("@prefix@", "/usr", "@version@", "0.1.0").Replace(fileText(t, "../../packaging/flexnbd.pc.in"))
	path := filepath.Join(t.TempDir(), "flexnbd.pc")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, "pkg-config", "--validate", path)
	if got := must(t, "pkg-config", "--variable=plugindir", path); got != "/usr/lib/flexnbd/plugins\n" {
		t.Errorf("plugindir is %q", got)
	}
	if got := must(t, "pkg-config", "--modversion", path); got != "0.1.0\n" {
		t.Errorf("the version is %q", got)
	}
}

func fileText(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
