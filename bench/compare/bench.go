// SPDX-License-Identifier: GPL-3.0-or-later

package compare

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
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
		if !slices.ContainsFunc(b.scenarios, m.runs) {
			continue
		}
		if err := b.onMedium(ctx, m); err != nil {
			return fmt.Errorf("medium %s: %w", m.name, err)
		}
	}
	return nil
}

// field is what runs on one medium.
type field struct {
	medium
	images    []*image
	instances []*instance
}

// onMedium starts all servers, runs the scenarios, and clears everything away.
func (b *bench) onMedium(ctx context.Context, m medium) (err error) {
	folder, err := m.folder(b.options.Size * int64(len(b.servers)))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	f := &field{medium: m}
	defer func() { err = errors.Join(err, f.close()) }()
	for i, s := range b.servers {
		if err := f.add(ctx, s, filepath.Join(folder, s.name), b.options.Size); err != nil {
			return err
		}
		facts := &b.results.Servers[i]
		facts.Command = f.instances[i].command
		if facts.Idle[m.name], err = process.Memory(f.instances[i].pid); err != nil {
			return f.instances[i].explain(err)
		}
	}
	if err := b.header(); err != nil {
		return err
	}
	for _, s := range b.scenarios {
		if !m.runs(s) {
			continue
		}
		table, err := b.scenario(ctx, f, s)
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

// add makes an image and starts a server on it.
func (f *field) add(ctx context.Context, s server, dir string, size int64) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	image, err := newImage(ctx, f.medium, filepath.Join(dir, "disk.img"), size)
	if err != nil {
		return err
	}
	f.images = append(f.images, image)
	if err := image.warm(); err != nil {
		return err
	}
	in, err := start(ctx, s, image.path, dir)
	if err != nil {
		return err
	}
	f.instances = append(f.instances, in)
	return nil
}

// close stops the servers and closes the images.
func (f *field) close() error {
	var errs []error
	for _, in := range f.instances {
		errs = append(errs, in.stop())
	}
	for _, i := range f.images {
		errs = append(errs, i.close())
	}
	return errors.Join(errs...)
}

// scenario runs all rounds of a scenario.
func (b *bench) scenario(ctx context.Context, f *field, s scenario) (t Table, err error) {
	t = Table{Medium: f.name, Scenario: s.name, Workload: s.Workload}
	var clients []*load.Client
	defer func() {
		for _, c := range clients {
			err = errors.Join(err, c.Close())
		}
	}()
	latencies := make([]load.Histogram, len(f.instances))
	for _, in := range f.instances {
		c, err := in.connect(ctx, s.Workload, b.options.Structured)
		if err != nil {
			return t, in.explain(err)
		}
		clients = append(clients, c)
		t.Series = append(t.Series, Series{Server: in.name, Lane: in.lane, Structured: c.Structured()})
		// Not counted; and everything is compared, as long as there is time for it.
		if _, err := c.Run(ctx, b.options.warmUp(), 0, true); err != nil {
			return t, in.explain(err)
		}
	}
	for round := range b.options.Rounds {
		for place, i := range order(round, len(f.instances)) {
			r, latency, err := b.slice(ctx, f, s, i, clients[i], uint64(round)+1)
			if err != nil {
				return t, f.instances[i].explain(err)
			}
			r.Place = place
			latencies[i].Add(latency)
			t.Series[i].Rounds = append(t.Series[i].Rounds, r)
		}
	}
	for i, in := range f.instances {
		t.Series[i].Latency = percentiles(&latencies[i])
		if t.Series[i].Memory, err = process.Memory(in.pid); err != nil {
			return t, in.explain(err)
		}
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

// slice is one server's turn.
func (b *bench) slice(ctx context.Context, f *field, s scenario, i int, c *load.Client, seed uint64) (Round, *load.Histogram, error) {
	if f.cold {
		if err := f.images[i].drop(); err != nil {
			return Round{}, nil, err
		}
	}
	in := f.instances[i]
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
	if s.writes() && (!f.inRAM || f.loop) {
		if err := f.images[i].settle(); err != nil {
			return Round{}, nil, err
		}
	}
	return Round{
		Requests:  result.Requests,
		Rate:      result.Rate,
		CPU:       float64((after - before).Nanoseconds()) / float64(result.All),
		ClientCPU: float64(result.CPU.Nanoseconds()) / float64(result.All),
		Latency:   percentiles(&result.Latency),
	}, &result.Latency, nil
}
