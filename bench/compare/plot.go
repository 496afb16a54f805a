// SPDX-License-Identifier: GPL-3.0-or-later

package compare

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// plot is a chart with a group of bars or dots for each scenario of a medium.
type plot struct {
	*chart
	groups []string
	series []string // servers
	colour map[string]string

	top, bottom, left float64 // of the area within the axes
	group, barWidth   float64
	at                func(value float64) float64
}

// Colours of flexnbd's variants, and of the peers, which are quieter.
var (
	ownColours  = []string{"#0b6e4f", "#e07a1f", "#6a3d9a", "#b8336a"}
	peerColours = []string{"#9db4c0", "#5c6b73", "#c9ada7", "#253237", "#b0a990", "#7d8491"}
)

// colours gives each server one that it has in all plots.
func (r *Results) colours() map[string]string {
	colour := map[string]string{}
	own, others := 0, 0
	for _, s := range r.Servers {
		if s.Lane != "" {
			colour[s.Name] = ownColours[own%len(ownColours)]
			own++
		} else {
			colour[s.Name] = peerColours[others%len(peerColours)]
			others++
		}
	}
	return colour
}

// newPlot lays out a plot for the tables, all of one medium.
func (r *Results) newPlot(tables []Table, title, subtitle, unit string) *plot {
	const (
		barWidth = 21
		gap      = 30
		left     = 86
		above    = 95
		area     = 320
		below    = 50
	)
	p := &plot{top: above, bottom: above + area, left: left, barWidth: barWidth, colour: r.colours()}
	for _, s := range r.Servers {
		p.series = append(p.series, s.Name)
	}
	for _, t := range tables {
		p.groups = append(p.groups, t.Scenario)
	}
	p.group = math.Max(barWidth*float64(len(p.series))+gap, 122)
	width := math.Max(left+p.group*float64(len(p.groups))+20, 720)
	p.chart = newChart(int(width), above+area+below, title, subtitle)
	var colours []string
	for _, name := range p.series {
		colours = append(colours, p.colour[name])
	}
	p.legend(72, p.series, colours)
	p.sideways(22, above+area/2, unit)
	for i, name := range p.groups {
		p.text(p.centre(i), p.bottom+20, "middle", name)
	}
	return p
}

// centre is the middle of a group.
func (p *plot) centre(group int) float64 { return p.left + p.group*(float64(group)+0.5) }

// x is the left edge of a bar.
func (p *plot) x(group, series int) float64 {
	return p.centre(group) + p.barWidth*(float64(series)-float64(len(p.series))/2)
}

// right is the end of the axes.
func (p *plot) right() float64 { return p.left + p.group*float64(len(p.groups)) }

// linear makes the vertical axis go from 0 to most.
func (p *plot) linear(most float64) {
	step := math.Pow(10, math.Floor(math.Log10(most)))
	for most/step < 4 {
		step /= 2
	}
	most = math.Ceil(most/step) * step
	p.at = func(v float64) float64 { return p.bottom - (p.bottom-p.top)*v/most }
	for v := 0.0; v <= most*1.001; v += step {
		p.tick(v, fmt.Sprintf("%.3g", v))
	}
}

// logarithmic makes the vertical axis go through powers of ten of microseconds.
func (p *plot) logarithmic(least, most time.Duration) {
	low := math.Floor(math.Log10(float64(max(least, 1))))
	high := math.Max(math.Ceil(math.Log10(float64(max(most, 1)))), low+1)
	p.at = func(v float64) float64 {
		return p.bottom - (p.bottom-p.top)*(math.Log10(math.Max(v, 1))-low)/(high-low)
	}
	for e := low; e <= high; e++ {
		d := time.Duration(math.Pow(10, e))
		p.tick(float64(d), strings.Replace(d.String(), "µ", "u", 1))
	}
}

func (p *plot) tick(v float64, label string) {
	p.line(p.left, p.at(v), p.right(), p.at(v), 1, faint)
	p.text(p.left-8, p.at(v)+4, "end", label)
}
