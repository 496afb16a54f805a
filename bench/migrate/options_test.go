// SPDX-License-Identifier: GPL-3.0-or-later

package migrate

import (
	"io"
	"slices"
	"testing"
)

func TestOnlyACompleteRunReplacesTheReports(t *testing.T) {
	for _, c := range []struct {
		arguments []string
		out       string
	}{
		{nil, defaultOut},
		{[]string{"-rounds", "3"}, defaultOut},
		{[]string{"-figure", "dense"}, ""},
		{[]string{"-lane", "file"}, ""},
		{[]string{"-medium", "ext4", "-out", "here"}, "here"},
	} {
		o, err := parseOptions("flexnbd", c.arguments, io.Discard)
		if err != nil || o.Out != c.out {
			t.Errorf("%q writes to %q (%v), want %q", c.arguments, o.Out, err, c.out)
		}
	}
}

func TestChoicesKeepTheirOrder(t *testing.T) {
	o, err := parseOptions("flexnbd", []string{"-figure", "pause,dense"}, io.Discard)
	if err != nil || !slices.Equal(o.Figures, []string{"dense", "pause"}) || !slices.Equal(o.Lanes, lanes) {
		t.Errorf("chosen: %v on %v (%v)", o.Figures, o.Lanes, err)
	}
}

func TestWrongOptionsAreRefused(t *testing.T) {
	for _, arguments := range [][]string{
		{"-figure", "speed"}, {"-lane", "file,"}, {"-medium", "disk"}, {"-rounds", "0"}, {"-samples", "0"}, {"-slice", "0s"}, {"more"},
	} {
		if o, err := parseOptions("flexnbd", arguments, io.Discard); err == nil {
			t.Errorf("%q is taken: %+v", arguments, o)
		}
	}
}
