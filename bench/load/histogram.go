// SPDX-License-Identifier: GPL-3.0-or-later

package load

import (
	"math/bits"
	"time"
)

// A Histogram counts durations. Up to 64 ns they are counted exactly, above that
// each power of two has 32 buckets, so that what [Histogram.Quantile] returns is
// within 2 % of the truth. Above 2^40 ns, 18 minutes, all fall into the last one.
// The zero value is ready for use. It is for one goroutine.
type Histogram struct {
	counts [buckets]uint64
	total  uint64
}

const (
	fineBits = 5
	fine     = 1 << fineBits
	longest  = 40 // bits
	exact    = 2 * fine
	buckets  = exact + (longest-fineBits-1)*fine
	maxValue = 1<<longest - 1
)

// bucket returns where a value is counted: its power of two and the five bits below
// the topmost one.
func bucket(ns uint64) int {
	if ns < exact {
		return int(ns)
	}
	ns = min(ns, maxValue)
	shift := bits.Len64(ns) - fineBits - 1
	return exact + (shift-1)*fine + int(ns>>shift) - fine
}

// middle is the value in the middle of a bucket.
func middle(b int) uint64 {
	if b < exact {
		return uint64(b)
	}
	shift := (b-exact)/fine + 1
	low := uint64((b-exact)%fine+fine) << shift
	return low + 1<<shift/2
}

// Record counts one duration n times.
func (h *Histogram) Record(d time.Duration, n uint64) {
	h.counts[bucket(uint64(max(d, 0)))] += n
	h.total += n
}

// Add counts what another histogram has counted.
func (h *Histogram) Add(other *Histogram) {
	for b, n := range other.counts {
		h.counts[b] += n
	}
	h.total += other.total
}

// Count returns how many durations were recorded.
func (h *Histogram) Count() uint64 { return h.total }

// Quantile returns the duration that the part q of all durations, from 0 to 1, does
// not exceed; 0 if there are none.
func (h *Histogram) Quantile(q float64) time.Duration {
	if h.total == 0 {
		return 0
	}
	rank := max(uint64(q*float64(h.total)+0.5), 1) // counted from one
	var seen uint64
	for b, n := range h.counts {
		if seen += n; seen >= rank {
			return time.Duration(middle(b))
		}
	}
	return maxValue
}
