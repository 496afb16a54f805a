// SPDX-License-Identifier: GPL-3.0-or-later

package journal

import (
	"fmt"
	"slices"
	"time"
)

// Pauses are how long requests waited for their answers, ascending. A request that
// was repeated counts from when it was sent for the first time.
type Pauses []time.Duration

// Longest returns the longest wait, 0 if there was none.
func (p Pauses) Longest() time.Duration { return p.Quantile(1) }

// Quantile returns the wait that the part q of all did not exceed; q is from 0 to 1.
func (p Pauses) Quantile(q float64) time.Duration {
	if len(p) == 0 {
		return 0
	}
	i := int(q*float64(len(p))+0.9999999) - 1
	return p[min(max(i, 0), len(p)-1)]
}

// Longest waits tell more than a mean.
func (p Pauses) String() string {
	return fmt.Sprintf("%d requests: median %v, 99 %% %v, 99.9 %% %v, longest %v", len(p), p.Quantile(0.5), p.Quantile(0.99), p.Quantile(0.999), p.Longest())
}

// pauses collects the waits that overlap the time from..to of the connections
// first..first+n-1.
func (d *Disk) pauses(first, n int, from, to time.Time) Pauses {
	begin, end := int64(from.Sub(d.began)), int64(to.Sub(d.began))
	d.mu.Lock()
	defer d.mu.Unlock()
	var p Pauses
	for _, o := range d.history {
		if o.answered && o.writer >= first && o.writer < first+n && o.ret >= begin && o.began <= end {
			p = append(p, time.Duration(o.ret-o.began))
		}
	}
	slices.Sort(p)
	return p
}
