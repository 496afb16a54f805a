// SPDX-License-Identifier: GPL-3.0-or-later

package compare

import "github.com/flexnbd/flexnbd/bench/load"

// scenario is one kind of load. Its name is stable: results are compared by it.
type scenario struct {
	name string
	load.Workload
}

const (
	kib = 1 << 10
	mib = 1 << 20
)

// scenarios in the order in which they are run. One request in flight shows latency,
// many show what a server makes of batches; from 64 KiB on, copying dominates.
var scenarios = []scenario{
	{"r4k-q1", load.Workload{Connections: 1, Depth: 1, Block: 4 * kib, Reads: 100}},
	{"r4k-q32", load.Workload{Connections: 1, Depth: 32, Block: 4 * kib, Reads: 100}},
	{"r4k-c4-q16", load.Workload{Connections: 4, Depth: 16, Block: 4 * kib, Reads: 100}},
	{"w4k-q32", load.Workload{Connections: 1, Depth: 32, Block: 4 * kib}},
	{"mixed4k-q32", load.Workload{Connections: 1, Depth: 32, Block: 4 * kib, Reads: 70}},
	{"r64k-q8", load.Workload{Connections: 1, Depth: 8, Block: 64 * kib, Reads: 100}},
	{"seqread-256k-q8", load.Workload{Connections: 1, Depth: 8, Block: 256 * kib, Reads: 100, Sequential: true}},
	{"seqread-1m-q4", load.Workload{Connections: 1, Depth: 4, Block: mib, Reads: 100, Sequential: true}},
	{"seqwrite-256k-q8", load.Workload{Connections: 1, Depth: 8, Block: 256 * kib, Sequential: true}},
	{"seqwrite-1m-q4", load.Workload{Connections: 1, Depth: 4, Block: mib, Sequential: true}},
}

// writes reports whether the scenario leaves dirty pages behind.
func (s *scenario) writes() bool { return s.Reads < 100 }
