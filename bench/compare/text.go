// SPDX-License-Identifier: GPL-3.0-or-later

package compare

import (
	"fmt"
	"io"
	"time"
)

const rowFormat = "%-17s %-9s %-18s %10s %9s %7s %9s %9s %9s %9s %7s %9s\n"

// header begins the table of what is being measured.
func (b *bench) header() error { return writeHeader(b.out) }

func (b *bench) rows(t Table) error { return writeRows(b.out, t) }

func writeHeader(w io.Writer) error {
	_, err := fmt.Fprintf(w, "\n"+rowFormat, "scenario", "medium", "server", "req/s", "MiB/s", "/best", "p50", "p99", "p99.9", "cpu/req", "/least", "memory")
	return err
}

func writeRows(w io.Writer, t Table) error {
	for i := range t.Series {
		s := &t.Series[i]
		_, err := fmt.Fprintf(w, rowFormat, t.Scenario, t.Medium, s.Server,
			fmt.Sprintf("%.0f", s.Rate), fmt.Sprintf("%.0f", s.Rate*float64(t.Workload.Block)/mib), ratioText(s.RateTo[t.BestPeer]),
			micro(s.Latency.P50), micro(s.Latency.P99), micro(s.Latency.P999),
			micro(time.Duration(s.CPU)), ratioText(s.CPURatio), fmt.Sprintf("%.1f MiB", float64(s.Memory)/mib))
		if err != nil {
			return err
		}
	}
	return nil
}

func ratioText(r float64) string {
	if r == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", r)
}

// micro words a time with three digits.
func micro(d time.Duration) string {
	us := float64(d) / float64(time.Microsecond)
	switch {
	case us < 10:
		return fmt.Sprintf("%.2f us", us)
	case us < 100:
		return fmt.Sprintf("%.1f us", us)
	case us < 10000:
		return fmt.Sprintf("%.0f us", us)
	}
	return fmt.Sprintf("%.1f ms", us/1000)
}
