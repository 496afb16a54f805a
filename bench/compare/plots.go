// SPDX-License-Identifier: GPL-3.0-or-later

package compare

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// writePlots makes three plots of each medium.
func (r *Results) writePlots(folder string) error {
	var errs []error
	for _, m := range media {
		var tables []Table
		for _, t := range r.Tables {
			if t.Medium == m.name {
				tables = append(tables, t)
			}
		}
		if len(tables) == 0 {
			continue
		}
		for kind, draw := range map[string]func(medium, []Table) string{
			"rate": r.ratePlot, "cpu": r.cpuPlot, "latency": r.latencyPlot,
		} {
			file := filepath.Join(folder, kind+"-"+m.name+".svg")
			errs = append(errs, os.WriteFile(file, []byte(draw(m, tables)), 0o644))
		}
	}
	return errors.Join(errs...)
}

// basis says what the numbers were made from.
func (r *Results) basis(m medium) string {
	return fmt.Sprintf("%s; %d rounds of %v; %s", m.about, r.Options.Rounds, r.Options.Slice, r.Machine.Date.Format(time.DateOnly))
}

// ratePlot shows each server's rate relative to the best peer's.
func (r *Results) ratePlot(m medium, tables []Table) string {
	p := r.newPlot(tables, "Requests per second on "+m.name+", relative to the best other server", r.basis(m), "requests/s, best peer = 1 (more is better)")
	value := func(t *Table, s *Series) float64 { return s.RateTo[t.BestPeer] }
	p.bars(tables, value, func(s *Series) goal { return s.RateGoal })
	return p.end()
}

// cpuPlot shows each server's CPU time per request relative to the thriftiest peer's.
func (r *Results) cpuPlot(m medium, tables []Table) string {
	p := r.newPlot(tables, "CPU time per request on "+m.name+", relative to the thriftiest other server", r.basis(m), "CPU time/request, thriftiest peer = 1 (less is better)")
	value := func(_ *Table, s *Series) float64 { return s.CPURatio }
	p.bars(tables, value, func(s *Series) goal { return s.CPUGoal })
	return p.end()
}

// tallest is where bars are cut off, so that a very long one does not hide the
// others. Its number tells its length.
const tallest = 5

// bars draws a bar for each server in each table, the line at 1, and a mark where a
// bar is wanted to reach.
func (p *plot) bars(tables []Table, value func(*Table, *Series) float64, goalOf func(*Series) goal) {
	most := 1.2
	for i := range tables {
		for j := range tables[i].Series {
			s := &tables[i].Series[j]
			most = max(most, value(&tables[i], s)*1.05, goalOf(s).Wanted*1.05)
		}
	}
	most = min(most, tallest)
	p.linear(most)
	for i := range tables {
		for j := range tables[i].Series {
			s := &tables[i].Series[j]
			v := value(&tables[i], s)
			x, y := p.x(i, j), p.at(min(v, most))
			p.bar(x+1, y, p.barWidth-2, p.bottom-y, p.colour[s.Server], fmt.Sprintf("%s, %s: %.2f (%.0f requests/s, CPU %s/request)", s.Server, tables[i].Scenario, v, s.Rate, micro(time.Duration(s.CPU))))
			if v > 0 {
				p.small(x+p.barWidth/2, y-3, "middle", fmt.Sprintf("%.*f", decimals(v), v))
			}
			if g := goalOf(s).Wanted; g > 0 {
				p.line(x-1, p.at(g), x+p.barWidth+1, p.at(g), 2.5, "#d00000")
			}
		}
	}
	p.dashed(p.left, p.at(1), p.right(), p.at(1), ink)
	p.small(p.right(), p.bottom+40, "end", "a red mark shows what is wanted of flexnbd")
}

// decimals leaves three characters or so for a number.
func decimals(v float64) int {
	switch {
	case v < 1:
		return 2
	case v < 10:
		return 1
	}
	return 0
}

// latencyPlot shows a line from the median to the 99.9th percentile of each server.
func (r *Results) latencyPlot(m medium, tables []Table) string {
	p := r.newPlot(tables, "Latency on "+m.name+": 50th, 99th and 99.9th percentile", r.basis(m), "latency of a request (less is better)")
	least, most := time.Hour, time.Duration(0)
	for _, t := range tables {
		for _, s := range t.Series {
			least, most = min(least, s.Latency.P50), max(most, s.Latency.P999)
		}
	}
	p.logarithmic(least, most)
	for i, t := range tables {
		for j, s := range t.Series {
			x, l, colour := p.x(i, j)+p.barWidth/2, s.Latency, p.colour[s.Server]
			note := fmt.Sprintf("%s, %s: %s, %s, %s", s.Server, t.Scenario, micro(l.P50), micro(l.P99), micro(l.P999))
			p.line(x, p.at(float64(l.P50)), x, p.at(float64(l.P999)), 2, colour)
			p.dot(x, p.at(float64(l.P50)), 5, colour, note)
			p.dot(x, p.at(float64(l.P99)), 3.5, colour, note)
			p.dot(x, p.at(float64(l.P999)), 2, colour, note)
		}
	}
	p.small(p.right(), p.bottom+40, "end", "the largest dot is the median, the smallest the 99.9th percentile")
	return p.end()
}
