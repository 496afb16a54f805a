// SPDX-License-Identifier: GPL-3.0-or-later

package migrate

import (
	"context"
	"errors"
	"fmt"

	"github.com/flexnbd/flexnbd/core/dirty"
)

// wire counts what a migration sends: of a disk that nobody writes to, and of one that
// is written to all the while. In the latter every write dirties one granule, which may
// have to be sent again; what was written before its granule was sent for the first time
// costs nothing.
func (b *bench) wire(ctx context.Context, where *folder) error {
	for _, lane := range b.options.Lanes {
		row := Row{Figure: "wire", Medium: where.medium, Lane: lane}
		if err := b.wireIdle(ctx, where, row); err != nil {
			return err
		}
		if err := b.wireWritten(ctx, where, row); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) wireIdle(ctx context.Context, where *folder, row Row) error {
	disk, err := newDisk(ctx, where, scattered(8*gib))
	if err != nil {
		return err
	}
	allocated, err := disk.allocated()
	if err != nil {
		return err
	}
	sent, _, err := b.countBytes(ctx, where, row.Lane, disk, false)
	if err != nil {
		return err
	}
	return b.report(row.with("bytes on the wire, both ways, of those allocated; 8 GiB, 256 MiB of data, idle",
		float64(sent)/float64(allocated), "", fmt.Sprintf("%d of %d", sent, allocated), atMost(1.02)))
}

func (b *bench) wireWritten(ctx context.Context, where *folder, row Row) error {
	disk, err := newDisk(ctx, where, dense(gib))
	if err != nil {
		return err
	}
	allocated, err := disk.allocated()
	if err != nil {
		return err
	}
	sent, writes, err := b.countBytes(ctx, where, row.Lane, disk, true)
	if err != nil {
		return err
	}
	dirtied := min(int64(writes)*dirty.Granule, sent-allocated) // an upper bound of what was sent twice
	return b.report(
		row.with("bytes on the wire less those dirtied, of those allocated; 1 GiB dense, 8 random 4 KiB writes in flight",
			float64(sent-dirtied)/float64(allocated), "", fmt.Sprintf("%d writes", writes), atMost(1.02)),
		row.with("all bytes on the wire, of those allocated; the same", float64(sent)/float64(allocated), "", "", nil),
		row.with("bytes sent more than allocated, for each that a client wrote; the same",
			float64(sent-allocated)/float64(max(writes, 1)*blockSize), "", "a write of 4 KiB dirties a granule of 64 KiB", nil),
	)
}

// countBytes migrates through a counting proxy, and returns how many writes clients
// had replies to meanwhile.
func (b *bench) countBytes(ctx context.Context, where *folder, lane string, disk image, write bool) (sent int64, writes uint64, err error) {
	err = b.withPair(ctx, where, lane, disk, func(p *pair) (err error) {
		through, err := newProxy(p.destination.address)
		if err != nil {
			return err
		}
		defer func() { sent = through.close() }()
		if write {
			w, err := startWriter(ctx, disk.size, p.source.address, p.destination.address)
			if err != nil {
				return err
			}
			defer func() {
				writes = w.window().writes
				err = errors.Join(err, w.stop())
			}()
			if err := w.until(ctx, writing); err != nil {
				return err
			}
			w.window() // from here on they count
		}
		if err := p.source.mirror(ctx, through.address(), "exit", 0); err != nil {
			return err
		}
		return p.source.wait(ctx)
	})
	return sent, writes, err
}
