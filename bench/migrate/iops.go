// SPDX-License-Identifier: GPL-3.0-or-later

package migrate

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/flexnbd/flexnbd/bench/load"
)

// iopsSize is enough to be copied for as long as a slice takes.
const iopsSize = 2 * gib

// mixed is what the clients do: 8 requests of 4 KiB in flight, at random, 7 of 10 reads.
var mixed = load.Workload{Connections: 1, Depth: inFlight, Block: blockSize, Reads: 70}

// iops measures clients' requests per second without a migration, with one, and with one
// that has a cap. Rehearsals follow one another for as long as a slice takes, so that
// what is measured is mostly copying.
//
// There is no link but loopback, and how fast that is depends on the CPUs, which clients,
// source and destination share: half of what a migration reaches alone takes half of
// their time. So there are three caps: that one; half of what the uncapped migration
// reaches beside the same clients, in the same round; and half of a link of 1 Gbit/s,
// which leaves the CPUs alone, as links between machines do.
func (b *bench) iops(ctx context.Context, where *folder) error {
	disk, err := newDisk(ctx, where, dense(iopsSize))
	if err != nil {
		return err
	}
	for _, lane := range b.options.Lanes {
		row := Row{Figure: "iops", Medium: where.medium, Lane: lane}
		err := b.withPair(ctx, where, lane, disk, func(p *pair) error { return b.iopsOn(ctx, p, row) })
		if err != nil {
			return err
		}
	}
	return nil
}

// gigabit is the payload of a link of 1 Gbit/s, in bytes per second.
const gigabit = 117 * mib

// slice is what was counted in one.
type slice struct {
	rate  float64 // requests per second
	speed float64 // bytes per second, of the migration
}

func (b *bench) iopsOn(ctx context.Context, p *pair, row Row) (err error) {
	c, err := load.Open(ctx, p.source.address, mixed, load.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	began := time.Now()
	o, err := p.source.rehearse(ctx, p.destination.address, 0)
	if err != nil {
		return err
	}
	link := float64(o.bytes) / time.Since(began).Seconds()
	turns := make(map[string][]slice)
	for round := range b.options.Rounds {
		var unlimited float64 // bytes per second in this round
		for _, n := range iopsOrder(round) {
			name := iopsTurns[n]
			s, err := b.slice(ctx, p, c, uint64(round), capOf(name, link, unlimited))
			if err != nil {
				return err
			}
			if name == unlimitedTurn {
				unlimited = s.speed
			}
			turns[name] = append(turns[name], s)
		}
	}
	for _, name := range iopsTurns {
		b.keep(row, "requests per second, "+name, rates(turns[name]))
		b.keep(row, "bytes per second, "+name, speeds(turns[name]))
	}
	return b.reportIOPS(row, turns)
}

// The turns of a round.
const (
	aloneTurn     = "no migration"
	unlimitedTurn = "no cap"
	linkTurn      = "a cap at half of what it reaches without clients"
	besideTurn    = "a cap at half of what it reaches beside them"
	gigabitTurn   = "a cap at half of 1 Gbit/s"
)

var iopsTurns = []string{aloneTurn, unlimitedTurn, linkTurn, gigabitTurn, besideTurn}

// iopsOrder changes with every round, but the last turn needs the speed of another one.
func iopsOrder(round int) []int {
	last := len(iopsTurns) - 1
	return append(order(round, last), last)
}

// capOf is the migration's cap in a turn; -1 for no migration, 0 for no cap.
func capOf(turn string, link, unlimited float64) int64 {
	switch turn {
	case aloneTurn:
		return -1
	case linkTurn:
		return int64(link / 2)
	case besideTurn:
		return int64(unlimited / 2)
	case gigabitTurn:
		return gigabit / 2
	}
	return 0
}

func (b *bench) reportIOPS(row Row, turns map[string][]slice) error {
	alone := rates(turns[aloneTurn])
	for _, name := range iopsTurns[1:] {
		list, goal := turns[name], atLeast(80)
		if name == unlimitedTurn {
			goal = atLeast(50)
		}
		absolute := fmt.Sprintf("%.0f requests/s; %.0f without; %.0f MiB/s migrated", median(rates(list)), median(alone), median(speeds(list))/mib)
		if err := b.report(row.with("clients' requests beside a migration, of those without; "+name, 100*medianRatio(rates(list), alone), "%", absolute, goal)); err != nil {
			return err
		}
	}
	return nil
}

func rates(list []slice) (values []float64) {
	for _, s := range list {
		values = append(values, s.rate)
	}
	return values
}

func speeds(list []slice) (values []float64) {
	for _, s := range list {
		values = append(values, s.speed)
	}
	return values
}

// slice counts requests for a while; cap is the migration's, 0 for none, -1 for no
// migration.
func (b *bench) slice(ctx context.Context, p *pair, c *load.Client, seed uint64, cap int64) (s slice, err error) {
	if cap >= 0 {
		end, err := p.source.mirrorOn(ctx, p.destination.address, cap)
		if err != nil {
			return s, err
		}
		defer func() {
			moved, endErr := end()
			s.speed, err = moved, errors.Join(err, endErr)
		}()
	}
	if _, err := c.Run(ctx, b.options.Slice/5, seed+1, false); err != nil { // not counted
		return s, err
	}
	result, err := c.Run(ctx, b.options.Slice, seed, false)
	s.rate = result.Rate
	return s, err
}

// mirrorOn rehearses again and again until end is called, which returns how many bytes
// per second were sent. It returns once the first is copying.
func (f *flexnbd) mirrorOn(ctx context.Context, to string, speed int64) (end func() (float64, error), err error) {
	ctx, cancel := context.WithCancel(ctx)
	if err := f.mirror(ctx, to, "nothing", speed); err != nil {
		cancel()
		return nil, err
	}
	err = until(ctx, f.program, func() error {
		sent, err := f.number(ctx, "migration_bytes_sent")
		if err == nil && sent == 0 {
			err = errors.New("nothing is sent")
		}
		return err
	})
	if err != nil {
		cancel()
		return nil, err
	}
	began := time.Now()
	var sent int64 // by those that have ended
	var failed error
	var follower sync.WaitGroup
	follower.Go(func() {
		for {
			o, err := f.await(ctx)
			if err == nil {
				sent += o.bytes
				err = f.mirror(ctx, to, "nothing", speed)
			}
			if err != nil {
				if ctx.Err() == nil {
					failed = err
				}
				return
			}
		}
	})
	return func() (float64, error) {
		took := time.Since(began).Seconds()
		last, statusErr := f.number(context.WithoutCancel(ctx), "migration_bytes_sent")
		cancel()
		follower.Wait()
		_, breakErr := f.ask(context.WithoutCancel(ctx), "break")
		return float64(sent+last) / took, errors.Join(failed, statusErr, breakErr)
	}, nil
}
