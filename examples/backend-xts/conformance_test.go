// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os"
	"testing"

	"github.com/flexnbd/flexnbd/sdk/align"
	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/storetest"
	"github.com/flexnbd/flexnbd/sdk/wire"
	"github.com/flexnbd/flexnbd/sdk/wire/wiretest"
)

// A temporary folder is on a disk's file system mostly, and /dev/shm is a tmpfs.
func TestConformance(t *testing.T) {
	for _, parent := range []string{os.TempDir(), "/dev/shm"} {
		t.Run(parent, func(t *testing.T) {
			suite(func(t testing.TB, size int64) store.Store {
				return newDisk(t, parent, size).mustOpen(t)
			}).Run(t)
		})
	}
}

// What clients see is the Store behind the SDK's align, which does the
// read-modify-write. So do this once with every offset and length.
func TestConformanceUnaligned(t *testing.T) {
	suite(func(t testing.TB, size int64) store.Store {
		return align.New(newDisk(t, os.TempDir(), size).mustOpen(t))
	}).Run(t)
}

func TestConformanceReadOnly(t *testing.T) {
	suite(func(t testing.TB, size int64) store.Store {
		d := newDisk(t, os.TempDir(), size)
		d.format(t)
		d.ReadOnly = true
		return d.mustOpen(t)
	}).Run(t)
}

func TestConformanceOverTheWire(t *testing.T) {
	suite(func(t testing.TB, size int64) store.Store {
		d := newDisk(t, os.TempDir(), size)
		return wiretest.Store(t, func(ctx context.Context, _ wire.Disk) (store.Store, error) {
			return open(ctx, d.Disk)
		})
	}).Run(t)
}

func suite(open storetest.Factory) storetest.Suite {
	return storetest.Suite{Open: open, SizeUnit: sectorSize}
}
