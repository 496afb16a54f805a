// SPDX-License-Identifier: GPL-3.0-or-later

// Command plugin is two backends for the benchmarks that have no descriptor to lend,
// as a third party's have not: the lanes that carry data through a process are measured
// with them. Both serve an image that is there already, so that clients can check what
// they read.
//
//	flexnbd serve --backend bin/bench-plugin,store=memory --file disk.img ...
//	flexnbd serve --backend bin/bench-plugin,store=checksum --file disk.img ...
//
// memory is package memstore, filled from the image: the least that a store can do.
// checksum computes: it keeps a checksum of each block of the image and compares every
// block that is read with it.
package main

import (
	"context"

	"github.com/flexnbd/flexnbd/sdk"
	"github.com/flexnbd/flexnbd/sdk/option"
	"github.com/flexnbd/flexnbd/sdk/store"
)

func main() {
	sdk.ServeBackend(sdk.Backend{
		Name: "bench", Version: sdk.Version, Open: open,
		Options: option.Set{{
			Name: "store", Type: option.Choice, Choices: []string{"memory", "checksum"}, Required: true,
			Help: "what is measured",
		}},
	})
}

func open(ctx context.Context, disk sdk.Disk) (store.Store, error) {
	if disk.Options["store"] == "memory" {
		return loadMemory(ctx, disk)
	}
	return openChecksum(disk)
}
