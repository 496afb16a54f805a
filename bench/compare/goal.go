// SPDX-License-Identifier: GPL-3.0-or-later

package compare

// goal is what a number should reach: at least (or, for CPU time, at most) wanted,
// and what would be good. 0 stands for no goal.
type goal struct {
	Wanted float64 `json:"wanted,omitempty"`
	Aim    float64 `json:"aim,omitempty"`
}

// rateGoals are for flexnbd's requests per second, divided by the best peer's, for
// each lane and scenario, on media whose data is in the page cache. The rpc lane has
// none: it is for backends in any language, not for speed.
var rateGoals = map[string]map[string]goal{
	"file": {
		"r4k-q1":           {0.95, 1.3},
		"r4k-q32":          {2.0, 4},
		"w4k-q32":          {2.0, 4},
		"r4k-c4-q16":       {2.2, 4},
		"r64k-q8":          {0.95, 1.3},
		"seqread-256k-q8":  {0.95, 1.2},
		"seqread-1m-q4":    {0.95, 1.2},
		"seqwrite-256k-q8": {0.95, 1.2},
		"seqwrite-1m-q4":   {0.95, 1.2},
	},
	// Of a plugin that reads and writes a file itself.
	"ring": {
		"r4k-q1":           {0.4, 0.6},
		"r4k-q32":          {1.4, 2.5},
		"w4k-q32":          {1.4, 2.5},
		"r4k-c4-q16":       {1.5, 2.5},
		"r64k-q8":          {0.8, 1.0},
		"seqread-256k-q8":  {0.7, 1.0},
		"seqread-1m-q4":    {0.75, 1.0},
		"seqwrite-256k-q8": {0.7, 1.0},
		"seqwrite-1m-q4":   {0.75, 1.0},
	},
}

// cpuGoals are for flexnbd's CPU time per request, divided by that of the peer that
// takes the least.
var cpuGoals = map[string]map[string]goal{
	"file": {"r4k-q32": {0.5, 0.3}, "w4k-q32": {0.5, 0.3}},
	"ring": {"r4k-q32": {0.75, 0.5}, "w4k-q32": {0.75, 0.5}},
}
