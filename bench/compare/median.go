// SPDX-License-Identifier: GPL-3.0-or-later

package compare

import "slices"

// median of some numbers, 0 of none.
func median(list []float64) float64 {
	if len(list) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(list))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// over is the median of what pick finds in each round.
func (s *Series) over(pick func(Round) float64) float64 {
	var list []float64
	for _, r := range s.Rounds {
		list = append(list, pick(r))
	}
	return median(list)
}

// ratio is the median of the ratios of s to other within each round.
func (s *Series) ratio(other *Series, pick func(Round) float64) float64 {
	var list []float64
	for i, r := range s.Rounds {
		if divisor := pick(other.Rounds[i]); divisor > 0 {
			list = append(list, pick(r)/divisor)
		}
	}
	return median(list)
}

func rate(r Round) float64      { return r.Rate }
func cpu(r Round) float64       { return r.CPU }
func clientCPU(r Round) float64 { return r.ClientCPU }
func memory(r Round) float64    { return float64(r.Memory) }

// summarize fills in what follows from the rounds.
func (t *Table) summarize() {
	var best, thrifty *Series
	for i := range t.Series {
		s := &t.Series[i]
		s.Rate, s.CPU, s.ClientCPU = s.over(rate), s.over(cpu), s.over(clientCPU)
		s.Memory = int64(s.over(memory))
		if s.Lane != "" {
			continue
		}
		if best == nil || s.Rate > best.Rate {
			best = s
		}
		if thrifty == nil || s.CPU < thrifty.CPU {
			thrifty = s
		}
	}
	if best == nil {
		return
	}
	t.BestPeer, t.ThriftyPeer = best.Server, thrifty.Server
	for i := range t.Series {
		s := &t.Series[i]
		s.RateTo = map[string]float64{}
		for j := range t.Series {
			if peer := &t.Series[j]; peer.Lane == "" {
				s.RateTo[peer.Server] = s.ratio(peer, rate)
			}
		}
		s.CPURatio = s.ratio(thrifty, cpu)
		if t.Medium != "uncached" {
			s.RateGoal = rateGoals[s.Lane][t.Scenario]
			s.CPUGoal = cpuGoals[s.Lane][t.Scenario]
		}
	}
}
