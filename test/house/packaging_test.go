// SPDX-License-Identifier: GPL-3.0-or-later

package house

import (
	"strings"
	"testing"
)

// PLUGINS.md shows the packaging of an example that is tested.
func TestShownPackagingIsTheExamples(t *testing.T) {
	_, rest, found := strings.Cut(read(t, "PLUGINS.md"), "\n```yaml\n")
	shown, _, ended := strings.Cut(rest, "```\n")
	if !found || !ended {
		t.Fatal("PLUGINS.md shows no nfpm.yaml")
	}
	if !strings.HasSuffix(read(t, "examples/backend-xts/packaging/nfpm.yaml"), "\n"+shown) {
		t.Error("PLUGINS.md does not show what examples/backend-xts/packaging/nfpm.yaml says; copy it there")
	}
}
