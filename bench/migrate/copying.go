// SPDX-License-Identifier: GPL-3.0-or-later

package migrate

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// copying is one side of a comparison: a way to get a disk from a server to another.
type copying struct {
	lane string // of flexnbd; empty for the reference
	copy func(ctx context.Context, where *folder, disk image) (turn, error)
}

// turn is what one copy took.
type turn struct {
	done   time.Duration // until the source has ended, or nbdcopy has
	served time.Duration // until the destination serves as well
	owned  time.Duration // until the source knew that the disk is the destination's
	cpu    time.Duration // of all processes, from the order to the end
}

// compare has all sides copy the disk in turns. row has the figure's name and medium,
// what names the disk; goal is of the time of all until the destination serves, in
// seconds, and ratio of the time until the source's end to the reference's.
func (b *bench) compare(ctx context.Context, where *folder, disk image, row Row, reference []string, goal, ratio *Goal) error {
	sides := []copying{{copy: b.nbdcopy(reference...)}}
	for _, lane := range b.options.Lanes {
		sides = append(sides, copying{lane, b.migration(lane)})
	}
	turns := make([][]turn, len(sides))
	for round := range b.options.Rounds {
		for _, n := range order(round, len(sides)) {
			t, err := sides[n].copy(ctx, where, disk)
			if err != nil {
				return err
			}
			turns[n] = append(turns[n], t)
		}
	}
	row.Lane = ""
	ours, base := series{turns[0]}, series{turns[0]}
	b.keepTurns(row, ours)
	for n := 1; n < len(sides); n++ {
		row.Lane, ours = sides[n].lane, series{turns[n]}
		b.keepTurns(row, ours)
		absolute := fmt.Sprintf("%.2f s; nbdcopy %.2f s", median(ours.done()), median(base.done()))
		err := b.report(
			row.with("`mirror` to the source's exit, of nbdcopy's time", medianRatio(ours.done(), base.done()), "", absolute, ratio),
			row.with("`mirror` until the destination serves and the source is gone", median(ours.served()), "s", spread(ours.served())+" s", goal),
			row.with("`mirror` to the destination's acknowledgement, of nbdcopy's time", medianRatio(ours.owned(), base.done()), "", fmt.Sprintf("%.2f s", median(ours.owned())), nil),
			row.with("CPU time, of nbdcopy's and its servers'", medianRatio(ours.cpu(), base.cpu()), "",
				fmt.Sprintf("%.2f s; nbdcopy %.2f s", median(ours.cpu()), median(base.cpu())), nil),
		)
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) keepTurns(row Row, s series) {
	b.keep(row, "done", s.done())
	b.keep(row, "served", s.served())
	b.keep(row, "acknowledged", s.owned())
	b.keep(row, "cpu", s.cpu())
}

// series is one side's turns.
type series struct{ turns []turn }

func (s series) pick(from func(turn) time.Duration) (list []float64) {
	for _, t := range s.turns {
		list = append(list, from(t).Seconds())
	}
	return list
}

func (s series) done() []float64 {
	return s.pick(func(t turn) time.Duration { return t.done })
}

func (s series) served() []float64 {
	return s.pick(func(t turn) time.Duration { return t.served })
}

func (s series) owned() []float64 {
	return s.pick(func(t turn) time.Duration { return t.owned })
}

func (s series) cpu() []float64 {
	return s.pick(func(t turn) time.Duration { return t.cpu })
}

// migration copies by giving the disk away, ordered with the command as an operator
// would.
func (b *bench) migration(lane string) func(context.Context, *folder, image) (turn, error) {
	return func(ctx context.Context, where *folder, disk image) (t turn, err error) {
		err = b.withPair(ctx, where, lane, disk, func(p *pair) error {
			t, err = b.migrate(ctx, where, p)
			return err
		})
		return t, err
	}
}

// migrate has the source give its disk to the destination.
func (b *bench) migrate(ctx context.Context, where *folder, p *pair) (t turn, err error) {
	servers := []*program{p.source.program, p.destination.program}
	before, err := cpuOf(servers...)
	if err != nil {
		return t, err
	}
	began := time.Now()
	host, port := split(p.destination.address)
	order, err := start(where.path, b.options.Binary, "mirror", "--addr", host, "--port", port, "--sock", p.source.sock, "--wait")
	if err != nil {
		return t, err
	}
	if err := errors.Join(order.wait(ctx), p.source.wait(ctx)); err != nil {
		return t, errors.Join(err, order.stop())
	}
	t.owned, t.done = order.at.Sub(began), p.source.at.Sub(began)
	if err := serving(ctx, p.destination.program, p.destination.address); err != nil {
		return t, err
	}
	t.served = time.Since(began)
	after, err := cpuOf(append(servers, order)...)
	t.cpu = after - before
	return t, err
}

// cpuOf is the CPU time of programs so far.
func cpuOf(programs ...*program) (sum time.Duration, err error) {
	for _, p := range programs {
		t, err := p.cpu()
		if err != nil {
			return 0, err
		}
		sum += t
	}
	return sum, nil
}
