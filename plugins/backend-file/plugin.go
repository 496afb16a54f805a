// SPDX-License-Identifier: GPL-3.0-or-later

package file

import (
	"context"
	"fmt"

	"github.com/flexnbd/flexnbd/sdk"
	"github.com/flexnbd/flexnbd/sdk/fdstore"
	"github.com/flexnbd/flexnbd/sdk/store"
)

// Plugin describes the backend to the SDK: all that a main needs.
func Plugin() sdk.Backend {
	return sdk.Backend{Name: "file", Version: sdk.Version, Open: openDisk}
}

func openDisk(ctx context.Context, disk sdk.Disk) (store.Store, error) {
	for option := range disk.Options {
		return nil, fmt.Errorf("unknown option %q; the file backend has none: %w", option, store.ErrInvalid)
	}
	if disk.Lease != nil {
		return fdstore.Reopen(disk.Lease, disk.Location, fdstore.Options{ReadOnly: disk.ReadOnly})
	}
	return Open(ctx, disk.Location, disk.ReadOnly)
}
