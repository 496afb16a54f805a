// SPDX-License-Identifier: GPL-3.0-or-later

package blockdev

import (
	"context"
	"os"

	"github.com/flexnbd/flexnbd/plugins/stock"
	"github.com/flexnbd/flexnbd/sdk"
	"github.com/flexnbd/flexnbd/sdk/fdstore"
	"github.com/flexnbd/flexnbd/sdk/store"
)

// Plugin describes the backend to the SDK: all that a main needs.
func Plugin() sdk.Backend {
	return sdk.Backend{Name: "blockdev", Version: sdk.Version, About: stock.About, Open: openDisk}
}

func openDisk(ctx context.Context, disk sdk.Disk) (store.Store, error) {
	if disk.Lease != nil {
		return fdstore.Reopen(disk.Lease, disk.Location, options(disk.Lease, disk.ReadOnly))
	}
	return Open(ctx, disk.Location, disk.ReadOnly)
}

// options names the device, if it can be. What needs a name and finds none says
// so: serving does not.
func options(device *os.File, readOnly bool) fdstore.Options {
	o := fdstore.Options{ReadOnly: readOnly}
	if id, err := Identity(device); err == nil && store.ValidIdentity(id) {
		o.Identity = id
	}
	return o
}
