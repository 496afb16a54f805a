// SPDX-License-Identifier: Apache-2.0

package main

import (
	"math"
	"testing"
)

func TestContentRanges(t *testing.T) {
	for header, want := range map[string]contentRange{
		"bytes 0-0/1":                   {0, 0, 1},
		"Bytes 5-9/10":                  {5, 9, 10},
		"bytes */0":                     {0, -1, 0},
		"bytes */1000":                  {0, -1, 1000},
		"bytes 0-0/9223372036854775807": {0, 0, math.MaxInt64},
	} {
		if got, err := parseContentRange(header); err != nil || got != want {
			t.Errorf("%s: %+v, %v, want %+v", header, got, err, want)
		}
	}
	for _, header := range []string{
		"", "bytes", "bytes 0-0", "bytes 0-0/*", "bytes */*", "bytes 1-0/5", "bytes 0-5/5", "bytes -0/5", "bytes 0-/5", "bytes +0-1/5",
		"bytes 0-0/9223372036854775808", "bytes 0-0/-1", "bytes  0-0/1", "items 0-0/1", "bytes 0-0/1 ", "bytes 0-0-0/1", "bytes 0_0-0/1",
	} {
		if got, err := parseContentRange(header); err == nil {
			t.Errorf("%q is taken for %+v", header, got)
		}
	}
}

func FuzzContentRange(f *testing.F) {
	for _, s := range []string{"bytes 0-0/1", "bytes */0", "bytes 5-9/*", "BYTES 1-2/3"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, header string) {
		r, err := parseContentRange(header)
		if err != nil {
			return
		}
		if r.first < 0 || r.last < r.first-1 || r.last >= r.size || r.size < 0 {
			t.Fatalf("%q is %+v", header, r)
		}
		if again, err := parseContentRange(r.String()); err != nil || again != r {
			t.Fatalf("%q is %+v, and then %+v, %v", header, r, again, err)
		}
	})
}
