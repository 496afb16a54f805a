// SPDX-License-Identifier: GPL-3.0-or-later

package mirror

import (
	"fmt"
	"slices"
	"sort"
)

// maxSpans bounds the memory of a coverage: 64 KiB.
const maxSpans = 4096

// coverage is the part of a disk that has been written, as far as it can be
// remembered: a range that would be one span too many is forgotten. So it may be
// less than what was written, never more. flexnbd 0.x sends a disk from its start to
// its end, which is one span.
type coverage struct {
	size  int64
	spans []span // ascending; between two of them there is a gap
}

// span is the bytes from begin up to, not including, end.
type span struct{ begin, end int64 }

func newCoverage(size int64) *coverage { return &coverage{size: size} }

// add notes that the bytes from begin up to, not including, end were written.
func (c *coverage) add(begin, end int64) {
	if begin < 0 || end < begin || end > c.size {
		panic(fmt.Sprintf("mirror: %d to %d is no part of a disk of %d bytes", begin, end, c.size))
	}
	if begin == end {
		return
	}
	// The spans from first up to, not including, last touch the new one.
	first := sort.Search(len(c.spans), func(i int) bool { return c.spans[i].end >= begin })
	last := sort.Search(len(c.spans), func(i int) bool { return c.spans[i].begin > end })
	if first == last {
		if len(c.spans) < maxSpans {
			c.spans = slices.Insert(c.spans, first, span{begin, end})
		}
		return
	}
	c.spans[first].begin = min(begin, c.spans[first].begin)
	c.spans[first].end = max(end, c.spans[last-1].end)
	c.spans = slices.Delete(c.spans, first+1, last)
}

// complete says whether every byte of the disk was written.
func (c *coverage) complete() bool {
	return c.size == 0 || len(c.spans) == 1 && c.spans[0] == span{0, c.size}
}

// String says how much was written.
func (c *coverage) String() string {
	var n int64
	for _, p := range c.spans {
		n += p.end - p.begin
	}
	return fmt.Sprintf("%d of %d bytes", n, c.size)
}
