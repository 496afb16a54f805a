// SPDX-License-Identifier: GPL-3.0-or-later

package compare

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/flexnbd/flexnbd/bench/load"
	"github.com/flexnbd/flexnbd/bench/process"
)

// bench is one run of the comparison.
type bench struct {
	options   Options
	servers   []server
	scenarios []scenario
	media     []medium
	out       io.Writer
	results   Results
}

func (b *bench) run(ctx context.Context) error {
	for _, m := range b.media {
		if err := b.onMedium(ctx, m); err != nil {
			return fmt.Errorf("medium %s: %w", m.name, err)
		}
	}
	return nil
}

// onMedium makes the image, runs the scenarios, and clears everything away.
func (b *bench) onMedium(ctx context.Context, m medium) (err error) {
	img, err := newImage(ctx, m, b.options.Size)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, img.close()) }()
	if err := b.idle(ctx, img); err != nil {
		return err
	}
	if err := b.header(); err != nil {
		return err
	}
	for _, s := range b.scenarios {
		table, err := b.scenario(ctx, img, s)
		if err != nil {
			return fmt.Errorf("scenario %s: %w", s.name, err)
		}
		b.results.Tables = append(b.results.Tables, table)
		if err := b.rows(table); err != nil {
			return err
		}
	}
	return nil
}

// idle notes what the servers take without connections, and by the way that all of
// them start.
func (b *bench) idle(ctx context.Context, img *image) error {
	for n, s := range b.servers {
		err := serve(ctx, s, img, func(in *instance) (err error) {
			facts := &b.results.Servers[n]
			facts.Command = in.command
			facts.Idle[img.name], err = process.Memory(in.pid)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// scenario runs all rounds of a scenario.
func (b *bench) scenario(ctx context.Context, img *image, s scenario) (Table, error) {
	t := Table{Medium: img.name, Scenario: s.name, Workload: s.Workload}
	for _, s := range b.servers {
		t.Series = append(t.Series, Series{Server: s.name, Lane: s.lane})
	}
	if err := img.layOut(ctx, int64(s.Block)); err != nil {
		return t, err
	}
	latencies := make([]load.Histogram, len(b.servers))
	for round := range b.options.Rounds {
		for place, n := range order(round, len(b.servers)) {
			series := &t.Series[n]
			err := serve(ctx, b.servers[n], img, func(in *instance) error {
				return b.turn(ctx, in, img, s, series, &latencies[n])
			})
			if err != nil {
				return t, err
			}
			series.Rounds[round].Place = place
		}
	}
	for n := range t.Series {
		t.Series[n].Latency = percentiles(&latencies[n])
	}
	t.summarize()
	return t, nil
}

// order is who comes when in a round. Everybody begins as often as the others, and as
// every second round goes backwards, nobody always comes after the same neighbour.
func order(round, n int) []int {
	list := make([]int, n)
	for i := range list {
		list[i] = (i + round/2) % n
	}
	if round%2 == 1 {
		slices.Reverse(list)
	}
	return list
}

// turn is one server's part of a round, which it adds to the series and the latencies.
func (b *bench) turn(ctx context.Context, in *instance, img *image, s scenario, series *Series, latencies *load.Histogram) (err error) {
	c, err := in.connect(ctx, s.Workload, b.options.Structured)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	series.Structured = c.Structured()
	// Not counted; and everything is compared, as long as there is time for it.
	if _, err := c.Run(ctx, b.options.warmUp(), 0, true); err != nil {
		return err
	}
	if img.cold {
		if err := img.drop(); err != nil {
			return err
		}
	}
	// The same offsets for everybody in this round.
	r, latency, err := b.slice(ctx, in, c, uint64(len(series.Rounds))+1)
	if err != nil {
		return err
	}
	series.Rounds = append(series.Rounds, r)
	latencies.Add(latency)
	if s.writes() && (!img.inRAM || img.loop) {
		return img.settle()
	}
	return nil
}

// slice is the part of a turn that counts.
func (b *bench) slice(ctx context.Context, in *instance, c *load.Client, seed uint64) (Round, *load.Histogram, error) {
	before, err := process.CPUTime(in.pid)
	if err != nil {
		return Round{}, nil, err
	}
	result, err := c.Run(ctx, b.options.Slice, seed, b.options.Verify)
	if err != nil {
		return Round{}, nil, err
	}
	after, err := process.CPUTime(in.pid)
	if err != nil {
		return Round{}, nil, err
	}
	memory, err := process.Memory(in.pid)
	return Round{
		Requests:  result.Requests,
		Rate:      result.Rate,
		CPU:       float64((after - before).Nanoseconds()) / float64(result.All),
		ClientCPU: float64(result.CPU.Nanoseconds()) / float64(result.All),
		Memory:    memory,
		Latency:   percentiles(&result.Latency),
	}, &result.Latency, err
}
