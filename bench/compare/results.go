// SPDX-License-Identifier: GPL-3.0-or-later

package compare

import (
	"time"

	"github.com/flexnbd/flexnbd/bench/load"
	"github.com/flexnbd/flexnbd/bench/machine"
)

// Results are all that a run has found out, as results.json has it.
type Results struct {
	Machine machine.Machine `json:"machine"`
	Options Options         `json:"options"`
	Servers []ServerFacts   `json:"servers"`
	Tables  []Table         `json:"tables"`
}

// ServerFacts describe one of the servers.
type ServerFacts struct {
	Name    string           `json:"name"`
	Lane    string           `json:"lane,omitempty"`
	Version string           `json:"version"`
	Command []string         `json:"command"`
	Idle    map[string]int64 `json:"memory_idle_bytes"` // on each medium, without connections
}

// Table is one scenario on one medium.
type Table struct {
	Medium   string        `json:"medium"`
	Scenario string        `json:"scenario"`
	Workload load.Workload `json:"workload"`
	// BestPeer has the highest median rate, ThriftyPeer the lowest median CPU time
	// per request. Empty if no peer ran.
	BestPeer    string   `json:"best_peer"`
	ThriftyPeer string   `json:"thrifty_peer"`
	Series      []Series `json:"series"`
}

// Series is one server's part of a table.
type Series struct {
	Server     string      `json:"server"`
	Lane       string      `json:"lane,omitempty"`
	Structured bool        `json:"structured_replies"`
	Rounds     []Round     `json:"rounds"`
	Latency    Percentiles `json:"latency"` // of all rounds together

	// Medians over the rounds.
	Rate      float64 `json:"rate"`
	CPU       float64 `json:"cpu_ns_per_request"`
	ClientCPU float64 `json:"client_cpu_ns_per_request"`
	Memory    int64   `json:"memory_bytes"`

	// Medians of the ratios within each round: this server's rate to each peer's,
	// and its CPU time per request to the thrifty peer's.
	RateTo   map[string]float64 `json:"rate_to_peer"`
	CPURatio float64            `json:"cpu_to_thrifty_peer,omitempty"`
	RateGoal goal               `json:"rate_goal,omitzero"`
	CPUGoal  goal               `json:"cpu_goal,omitzero"`
}

// Round is one slice.
type Round struct {
	Place     int         `json:"place"` // in the order of the round, from 0
	Requests  uint64      `json:"requests"`
	Rate      float64     `json:"rate"` // requests per second
	CPU       float64     `json:"cpu_ns_per_request"`
	ClientCPU float64     `json:"client_cpu_ns_per_request"`
	Memory    int64       `json:"memory_bytes"` // after the slice, with its connections
	Latency   Percentiles `json:"latency"`
}

// Percentiles of the requests' latencies.
type Percentiles struct {
	P50  time.Duration `json:"p50_ns"`
	P99  time.Duration `json:"p99_ns"`
	P999 time.Duration `json:"p99.9_ns"`
}

func percentiles(h *load.Histogram) Percentiles {
	return Percentiles{h.Quantile(0.5), h.Quantile(0.99), h.Quantile(0.999)}
}
