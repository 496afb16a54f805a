// SPDX-License-Identifier: GPL-3.0-or-later

package house

import (
	"strings"
	"testing"
)

// licence is what a file in this place is under: sdk, and the plugins that
// authors start from, may go into plugins of any licence.
func licence(path string) string {
	for _, place := range []string{"sdk/", "examples/", "test/plugin-", "test/old-plugins/"} {
		if strings.HasPrefix(path, place) {
			return "Apache-2.0"
		}
	}
	return "GPL-3.0-or-later"
}

func TestEverySourceFileBeginsWithItsLicence(t *testing.T) {
	for _, path := range sourceFiles(t) {
		first, rest, _ := strings.Cut(read(t, path), "\n")
		if want := "// SPDX-License-Identifier: " + licence(path); first != want {
			t.Errorf("%s: the first line is %q, want %q", path, first, want)
		}
		if !strings.HasPrefix(rest, "\n") {
			t.Errorf("%s: the second line must be empty", path)
		}
	}
}

func TestLicenceTextsAreThere(t *testing.T) {
	for path, title := range map[string]string{
		"LICENSE":     "GNU GENERAL PUBLIC LICENSE",
		"sdk/LICENSE": "Apache License",
	} {
		if first, _, _ := strings.Cut(strings.TrimSpace(read(t, path)), "\n"); !strings.Contains(first, title) {
			t.Errorf("%s begins with %q, want %q", path, first, title)
		}
	}
}
