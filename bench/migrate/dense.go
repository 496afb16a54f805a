// SPDX-License-Identifier: GPL-3.0-or-later

package migrate

import "context"

// dense copies 1 GiB of data. On a disk nbdcopy flushes in the end, since a migration
// does.
func (b *bench) dense(ctx context.Context, where *folder) error {
	var reference []string
	if where.medium != "tmpfs" {
		reference = []string{"--flush"}
	}
	return b.copyDisk(ctx, where, "dense", dense(gib), reference, nil, atMost(1.1))
}

// sparse copies 8 GiB with 256 MiB of data in them.
func (b *bench) sparse(ctx context.Context, where *folder) error {
	return b.copyDisk(ctx, where, "sparse", scattered(8*gib), []string{"--destination-is-zero"}, atMost(1), nil)
}

func (b *bench) copyDisk(ctx context.Context, where *folder, name string, l layout, reference []string, goal, ratio *Goal) error {
	disk, err := newDisk(ctx, where, l)
	if err != nil {
		return err
	}
	return b.compare(ctx, where, disk, Row{Figure: name, Medium: where.medium}, reference, goal, ratio)
}

// newDisk makes the image that is to be migrated, where there is room for its copy.
func newDisk(ctx context.Context, where *folder, l layout) (image, error) {
	if err := where.room(2 * l.data); err != nil {
		return image{}, err
	}
	dir, err := where.below("source")
	if err != nil {
		return image{}, err
	}
	return newImage(ctx, dir, l)
}
