// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"fmt"
	"slices"
	"time"
)

// starts is how often a server is started.
const starts = 21

// measureReady times from the start of the process to a client's finished
// handshake.
func measureReady(binary string) ([]row, error) {
	var times []time.Duration
	for range starts {
		s, took, err := startServer(binary, 1<<30)
		if err != nil {
			return nil, err
		}
		if err := s.stop(); err != nil {
			return nil, err
		}
		times = append(times, took)
	}
	slices.Sort(times)
	what := fmt.Sprintf("start to ready, both plugins, median of %d", starts)
	spread := fmt.Sprintf("the same, fastest to slowest: %.0f to %.0f ms", ms(times[0]), ms(times[len(times)-1]))
	return []row{
		{what, fmt.Sprintf("%.0f ms", ms(times[len(times)/2])), "150 ms"},
		{spread, "", ""},
	}, nil
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
