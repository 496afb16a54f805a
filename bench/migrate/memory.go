// SPDX-License-Identifier: GPL-3.0-or-later

package migrate

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// disks whose migrations' memory is compared.
var memoryDisks = []struct {
	what string
	layout
}{
	{"1 GiB dense", dense(gib)},
	{"8 GiB with 256 MiB of data", scattered(8 * gib)},
	{"64 GiB with 256 MiB of data", scattered(64 * gib)},
}

// memory measures how much more the source's core takes at its peak, in a rehearsal,
// than before. It is to be the window, 16 MiB, and the bitmap, 2 MiB for a TiB.
func (b *bench) memory(ctx context.Context, where *folder) error {
	for _, lane := range b.options.Lanes {
		for _, d := range memoryDisks {
			row := Row{Figure: "memory", Medium: where.medium, Lane: lane}
			if err := b.memoryOf(ctx, where, row, d.what, d.layout); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bench) memoryOf(ctx context.Context, where *folder, row Row, what string, l layout) error {
	disk, err := newDisk(ctx, where, l)
	if err != nil {
		return err
	}
	return b.withPair(ctx, where, row.Lane, disk, func(p *pair) error {
		before, err := resident(p.source.pid(), "VmRSS")
		if err != nil {
			return err
		}
		after := before
		for range 3 {
			if err := forgetPeak(p.source.pid()); err != nil {
				return err
			}
			if _, err := p.source.rehearse(ctx, p.destination.address, 0); err != nil {
				return err
			}
			peak, err := resident(p.source.pid(), "VmHWM")
			if err != nil {
				return err
			}
			after = max(after, peak)
		}
		return b.report(row.with("source's core, peak less what it takes before; "+what,
			float64(after-before)/mib, "MiB", fmt.Sprintf("%.1f MiB before", float64(before)/mib), nil))
	})
}

// forgetPeak sets the process's VmHWM to what it takes now.
func forgetPeak(pid int) error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
}

// resident reads a field of the process's status, in bytes. The core alone counts, not
// its plugins.
func resident(pid int, field string) (int64, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	return parseResident(bufio.NewScanner(f), field)
}

func parseResident(lines *bufio.Scanner, field string) (int64, error) {
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), field+":"); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(rest, "kB")), 10, 64)
			return n * kib, err
		}
	}
	return 0, fmt.Errorf("there is no %s", field)
}
