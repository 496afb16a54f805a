// SPDX-License-Identifier: GPL-3.0-or-later

package load

import (
	"testing"
	"time"
)

func TestQuantilesAreWithinTwoPercent(t *testing.T) {
	var h Histogram
	const n = 100000
	for i := range n {
		h.Record(time.Duration(i+1)*37*time.Nanosecond, 1)
	}
	for _, q := range []float64{0.001, 0.5, 0.9, 0.99, 0.999, 1} {
		want, have := q*n*37, float64(h.Quantile(q))
		if have < 0.98*want || have > 1.02*want {
			t.Errorf("quantile %v is %v, want %v within 2 %%", q, have, want)
		}
	}
	if h.Count() != n {
		t.Errorf("counted %d of %d", h.Count(), n)
	}
}

func TestEveryDurationHasABucketOfItsSize(t *testing.T) {
	last := -1
	for shift := range 45 {
		for _, ns := range []uint64{1<<shift - 1, 1 << shift, 1<<shift + 1<<shift/3} {
			b := bucket(ns)
			if b < last || b >= buckets {
				t.Fatalf("%d ns falls into bucket %d, after %d, of %d", ns, b, last, buckets)
			}
			last = b
			ns = min(ns, maxValue)
			if m := middle(b); m < ns-ns/50 || m > ns+ns/50 {
				t.Errorf("%d ns count as %d", ns, m)
			}
		}
	}
}

func TestShortDurationsAreExact(t *testing.T) {
	for ns := range time.Duration(exact) {
		var h Histogram
		h.Record(ns, 3)
		if have := h.Quantile(0.5); have != ns {
			t.Errorf("%v counts as %v", ns, have)
		}
	}
}

func TestAddedHistogramsCountAll(t *testing.T) {
	var a, b Histogram
	if a.Quantile(0.5) != 0 {
		t.Error("the median of nothing is not 0")
	}
	a.Record(10, 1)
	b.Record(20, 2)
	b.Record(-5, 1) // counts as 0
	a.Add(&b)
	if a.Count() != 4 || a.Quantile(0.25) != 0 || a.Quantile(0.5) != 10 || a.Quantile(1) != 20 {
		t.Errorf("%d durations, quantiles %v, %v, %v", a.Count(), a.Quantile(0.25), a.Quantile(0.5), a.Quantile(1))
	}
}
