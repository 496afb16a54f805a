// SPDX-License-Identifier: GPL-3.0-or-later

package migrate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// pauseSize is the disk's: large enough for passes to be worth something, small enough
// for many migrations.
const pauseSize = 256 * mib

// pause measures how long clients are held, at the source and as a client sees it, with
// eight random writes of 4 KiB in flight: in rehearsals, and in migrations after which
// the client connects again, to the same address or to another.
func (b *bench) pause(ctx context.Context, where *folder) error {
	for _, lane := range b.options.Lanes {
		row := Row{Figure: "pause", Medium: where.medium, Lane: lane}
		if err := b.rehearsals(ctx, where, row); err != nil {
			return err
		}
		for _, rebind := range []bool{true, false} {
			if err := b.moves(ctx, where, row, rebind); err != nil {
				return err
			}
		}
	}
	return nil
}

// pauses are the times of one kind, in seconds.
type pauses []float64

func (p *pauses) add(d time.Duration) { *p = append(*p, d.Seconds()) }

// reportPauses says the 99th percentile, and the longest against max-pause.
func (b *bench) reportPauses(row Row, what string, p pauses, quick, longest *Goal) error {
	b.keep(row, what, p)
	ms := func(q float64) float64 { return quantile(p, q) * 1000 }
	return b.report(
		row.with(what+": p99", ms(0.99), "ms", fmt.Sprintf("p50 %.1f ms; %d samples", ms(0.5), len(p)), quick),
		row.with(what+": longest", ms(1), "ms", "", longest),
	)
}

var (
	quickPause   = atMost(100)
	longestPause = atMost(float64(maxPause.Milliseconds()))
)

func (b *bench) rehearsals(ctx context.Context, where *folder, row Row) error {
	disk, err := newDisk(ctx, where, dense(pauseSize))
	if err != nil {
		return err
	}
	var held, longest pauses
	err = b.withPair(ctx, where, row.Lane, disk, func(p *pair) (err error) {
		w, err := startWriter(ctx, disk.size, p.source.address)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, w.stop()) }()
		for range b.options.Samples {
			if err := w.until(ctx, writing); err != nil {
				return err
			}
			w.window()
			o, err := p.source.rehearse(ctx, p.destination.address, 0)
			if err != nil {
				return err
			}
			if err := w.settle(ctx); err != nil {
				return err
			}
			seen := w.window()
			if seen.moves > 0 {
				return errors.New("a rehearsal has cost the client its connection")
			}
			held.add(o.pause)
			longest.add(seen.longest)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return errors.Join(
		b.reportPauses(row, "rehearsal, clients held, as the source tells", held, quickPause, longestPause),
		b.reportPauses(row, "rehearsal, the slowest write from the order to the end", longest, nil, nil),
	)
}

// moves migrates a disk to and fro. With rebind the client always has the same address.
func (b *bench) moves(ctx context.Context, where *folder, row Row, rebind bool) (err error) {
	disk, err := newDisk(ctx, where, dense(pauseSize))
	if err != nil {
		return err
	}
	owner, err := b.server(ctx, "serve", row.Lane, disk)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, owner.stop()) }()
	home := owner.address
	var gaps, longest pauses
	for n := range b.options.Samples {
		side, err := where.below(fmt.Sprintf("side-%d", n%2))
		if err != nil {
			return err
		}
		next, seen, err := b.move(ctx, row.Lane, owner, side, home, rebind)
		if err != nil {
			return err
		}
		owner = next
		gaps.add(seen.gap)
		longest.add(seen.longest)
		if err := where.forget(owner.image.path); err != nil {
			return err
		}
	}
	to := "migration to another address"
	if rebind {
		to = "migration, address taken over"
	}
	return errors.Join(
		b.reportPauses(row, to+", last reply at the source to the first at the destination", gaps, quickPause, longestPause),
		b.reportPauses(row, to+", the slowest write from the order to the end", longest, nil, nil),
	)
}

// move is one migration, with a client that writes.
func (b *bench) move(ctx context.Context, lane string, owner *flexnbd, side, home string, rebind bool) (next *flexnbd, seen Window, err error) {
	copied, err := emptyImage(side, owner.image.size)
	if err != nil {
		return nil, seen, err
	}
	var more []string
	if rebind {
		_, port := split(home)
		more = []string{"--rebind-port", port}
	}
	if next, err = b.server(ctx, "listen", lane, copied, more...); err != nil {
		return nil, seen, err
	}
	arrival := next.address
	addresses := []string{owner.address, arrival}
	if rebind {
		addresses, next.address = []string{home}, home
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, next.stop())
			next = nil
		}
	}()
	w, err := startWriter(ctx, copied.size, addresses...)
	if err != nil {
		return next, seen, err
	}
	defer func() { err = errors.Join(err, w.stop()) }()
	if err := w.until(ctx, writing); err != nil {
		return next, seen, err
	}
	w.window()
	if err := owner.mirror(ctx, arrival, "exit", 0); err != nil {
		return next, seen, err
	}
	if err := errors.Join(owner.wait(ctx), w.untilMoved(ctx)); err != nil {
		return next, seen, err
	}
	if err := w.settle(ctx); err != nil {
		return next, seen, err
	}
	if seen = w.window(); seen.moves != 1 {
		return next, seen, fmt.Errorf("the client has changed its connection %d times", seen.moves)
	}
	return next, seen, nil
}

// forget removes all images but one.
func (f *folder) forget(path string) error {
	all, err := filepath.Glob(filepath.Join(f.path, "*", "disk.img"))
	if err != nil {
		return err
	}
	for _, other := range all {
		if other != path {
			err = errors.Join(err, os.RemoveAll(filepath.Dir(other)))
		}
	}
	return err
}
