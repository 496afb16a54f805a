// SPDX-License-Identifier: GPL-3.0-or-later

package compare

import (
	"strings"
	"testing"
)

func rounds(rates ...float64) (list []Round) {
	for _, r := range rates {
		list = append(list, Round{Rate: r, CPU: 1000 / r})
	}
	return list
}

func TestRatioIsThatWithinRounds(t *testing.T) {
	// The machine is ten times slower in the last rounds. Ours is twice as fast as
	// slow and as fast as quick, in every round but one.
	table := Table{Medium: "tmpfs", Scenario: "r4k-q32", Series: []Series{
		{Server: "flexnbd-file", Lane: "file", Rounds: rounds(100, 100, 100, 10, 10)},
		{Server: "slow", Rounds: rounds(50, 50, 50, 5, 5)},
		{Server: "quick", Rounds: rounds(100, 100, 300, 10, 10)},
	}}
	table.summarize()
	if table.BestPeer != "quick" || table.ThriftyPeer != "quick" {
		t.Errorf("the best peer is %q, the thriftiest %q", table.BestPeer, table.ThriftyPeer)
	}
	ours := table.Series[0]
	if ours.Rate != 100 || ours.RateTo["slow"] != 2 || ours.RateTo["quick"] != 1 || ours.CPURatio != 1 {
		t.Errorf("ours is %+v", ours)
	}
	if ours.RateGoal.Wanted != 2 || ours.CPUGoal.Wanted != 0.5 || !strings.Contains(ours.verdict("quick"), "misses both") {
		t.Errorf("goals %+v and %+v, verdict %q", ours.RateGoal, ours.CPUGoal, ours.verdict("quick"))
	}
	if table.Series[1].RateGoal != (goal{}) || table.Series[2].RateTo["quick"] != 1 {
		t.Errorf("peers are %+v", table.Series[1:])
	}
}

func TestWithoutPeersThereIsNoRatio(t *testing.T) {
	table := Table{Medium: "tmpfs", Scenario: "r4k-q32", Series: []Series{{Server: "flexnbd-file", Lane: "file", Rounds: rounds(1, 3)}}}
	table.summarize()
	if s := table.Series[0]; table.BestPeer != "" || s.Rate != 2 || s.verdict(table.BestPeer) != "" {
		t.Errorf("%+v", table)
	}
}

func TestMedian(t *testing.T) {
	for want, list := range map[float64][]float64{0: nil, 3: {3}, 2: {3, 1}, 5: {9, 5, 1}} {
		if have := median(list); have != want {
			t.Errorf("the median of %v is %v, want %v", list, have, want)
		}
	}
}
