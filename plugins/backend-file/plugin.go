// SPDX-License-Identifier: GPL-3.0-or-later

package file

import (
	"context"

	"github.com/flexnbd/flexnbd/plugins/stock"
	"github.com/flexnbd/flexnbd/sdk"
	"github.com/flexnbd/flexnbd/sdk/fdstore"
	"github.com/flexnbd/flexnbd/sdk/store"
)

// Plugin describes the backend to the SDK: all that a main needs.
func Plugin() sdk.Backend {
	return sdk.Backend{Name: "file", Version: sdk.Version, About: stock.About, Open: openDisk}
}

func openDisk(ctx context.Context, disk sdk.Disk) (store.Store, error) {
	if disk.Lease != nil {
		return fdstore.Reopen(disk.Lease, disk.Location, fdstore.Options{ReadOnly: disk.ReadOnly})
	}
	return Open(ctx, disk.Location, disk.ReadOnly)
}
