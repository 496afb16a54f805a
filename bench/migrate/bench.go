// SPDX-License-Identifier: GPL-3.0-or-later

package migrate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
)

const (
	kib = 1 << 10
	mib = 1 << 20
	gib = 1 << 30
)

// bench is one run.
type bench struct {
	options Options
	out     io.Writer
	results Results
}

// figure is something to measure on a medium.
type figure struct {
	name    string
	media   []string
	measure func(*bench, context.Context, *folder) error
}

// figures are what can be measured, in the order they are. What the disk has no part
// in is measured on tmpfs only.
func figures() []figure {
	return []figure{
		{"dense", []string{"tmpfs", "ext4"}, (*bench).dense},
		{"sparse", []string{"tmpfs"}, (*bench).sparse},
		{"wire", []string{"tmpfs"}, (*bench).wire},
		{"pause", []string{"tmpfs", "ext4"}, (*bench).pause},
		{"iops", []string{"tmpfs"}, (*bench).iops},
		{"memory", []string{"tmpfs"}, (*bench).memory},
	}
}

func figureNames() (names []string) {
	for _, f := range figures() {
		names = append(names, f.name)
	}
	return names
}

// run measures what was chosen, each figure in a folder of its own.
func (b *bench) run(ctx context.Context) error {
	if err := writeHeader(b.out); err != nil {
		return err
	}
	for _, f := range figures() {
		if !slices.Contains(b.options.Figures, f.name) {
			continue
		}
		for _, m := range f.media {
			if !slices.Contains(b.options.Media, m) {
				continue
			}
			if err := b.figure(ctx, f, m); err != nil {
				return fmt.Errorf("figure %s on %s: %w", f.name, m, err)
			}
		}
	}
	return nil
}

func (b *bench) figure(ctx context.Context, f figure, medium string) (err error) {
	where, err := newFolder(medium)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, where.remove()) }()
	return f.measure(b, ctx, where)
}

// report adds rows to the results and prints them.
func (b *bench) report(rows ...Row) error {
	for _, r := range rows {
		b.results.Rows = append(b.results.Rows, r)
		if err := r.write(b.out); err != nil {
			return err
		}
	}
	return nil
}

// keep puts raw numbers into the results.
func (b *bench) keep(r Row, what string, samples []float64) {
	b.results.Samples = append(b.results.Samples, Samples{r.Figure, r.Medium, r.Lane, what, samples})
}

// order is who comes when in a round of n: everybody begins as often as the others, and
// every second round goes backwards.
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
