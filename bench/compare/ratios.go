// SPDX-License-Identifier: GPL-3.0-or-later

package compare

import (
	"fmt"
	"io"
	"strings"
)

// writeRatios writes a line for each lane of flexnbd in each table: its rate against
// each peer's, and against what is wanted.
func (r *Results) writeRatios(w io.Writer) error {
	var peerNames []string
	for _, s := range r.Servers {
		if s.Lane == "" {
			peerNames = append(peerNames, s.Name)
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%-17s %-9s %-13s", "scenario", "medium", "server")
	for _, name := range peerNames {
		fmt.Fprintf(&b, " %12s", "/ "+name)
	}
	fmt.Fprintf(&b, "  %-12s %6s %7s %5s  %6s %7s %5s\n", "best peer", "ratio", "wanted", "aim", "CPU", "wanted", "aim")
	for _, t := range r.Tables {
		for _, s := range t.Series {
			if s.Lane == "" {
				continue
			}
			fmt.Fprintf(&b, "%-17s %-9s %-13s", t.Scenario, t.Medium, s.Server)
			for _, name := range peerNames {
				fmt.Fprintf(&b, " %12s", ratioText(s.RateTo[name]))
			}
			fmt.Fprintf(&b, "  %-12s %6s %7s %5s  %6s %7s %5s%s\n", t.BestPeer,
				ratioText(s.RateTo[t.BestPeer]), ratioText(s.RateGoal.Wanted), ratioText(s.RateGoal.Aim),
				ratioText(s.CPURatio), ratioText(s.CPUGoal.Wanted), ratioText(s.CPUGoal.Aim), s.verdict(t.BestPeer))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// verdict says that a goal was missed.
func (s *Series) verdict(bestPeer string) string {
	rateMissed := s.RateTo[bestPeer] < s.RateGoal.Wanted
	cpuMissed := s.CPUGoal.Wanted > 0 && s.CPURatio > s.CPUGoal.Wanted
	switch {
	case bestPeer == "": // nothing to compare with
		return ""
	case rateMissed && cpuMissed:
		return "  misses both"
	case rateMissed:
		return "  misses rate"
	case cpuMissed:
		return "  misses CPU"
	}
	return ""
}
