// SPDX-License-Identifier: GPL-3.0-or-later

package migrate

import (
	"context"
	"errors"
)

// pair is a server with a disk, and one that waits for it.
type pair struct {
	source, destination *flexnbd
}

// pair starts both. The disk's records are removed before, so that an image can be
// given away again and again, and the destination's file is made anew.
func (b *bench) pair(ctx context.Context, where *folder, lane string, disk image) (*pair, error) {
	if err := disk.forget(); err != nil {
		return nil, err
	}
	dir, err := where.below("destination")
	if err != nil {
		return nil, err
	}
	copied, err := emptyImage(dir, disk.size)
	if err != nil {
		return nil, err
	}
	p := new(pair)
	if p.source, err = b.server(ctx, "serve", lane, disk); err != nil {
		return nil, err
	}
	if p.destination, err = b.server(ctx, "listen", lane, copied); err != nil {
		return nil, errors.Join(err, p.stop())
	}
	return p, nil
}

func (p *pair) stop() error {
	var errs []error
	for _, f := range []*flexnbd{p.source, p.destination} {
		if f != nil {
			errs = append(errs, f.stop())
		}
	}
	return errors.Join(errs...)
}

// withPair runs a pair for as long as use takes.
func (b *bench) withPair(ctx context.Context, where *folder, lane string, disk image, use func(*pair) error) (err error) {
	p, err := b.pair(ctx, where, lane, disk)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	return use(p)
}
