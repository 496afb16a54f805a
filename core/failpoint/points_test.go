// SPDX-License-Identifier: GPL-3.0-or-later

package failpoint

import (
	"regexp"
	"slices"
	"testing"
)

func TestPointsHaveNamesOfTheirOwnThatTermsCanHold(t *testing.T) {
	names := Points()
	for _, name := range names {
		if !regexp.MustCompile(`^[a-z]+(-[a-z]+)+$`).MatchString(name) {
			t.Errorf("%q is no name for a point", name)
		}
	}
	slices.Sort(names)
	if len(slices.Compact(names)) != len(points) {
		t.Error("two points have the same name")
	}
}
