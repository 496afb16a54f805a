// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	"github.com/flexnbd/flexnbd/sdk"
	"github.com/flexnbd/flexnbd/sdk/store"
)

func main() {
	sdk.ServeBackend(sdk.Backend{Name: "http", Version: "1.0.0", Options: options, Open: open})
}

// open does not ask for disk.ReadOnly: the store says that it is, which is enough for
// flexnbd to refuse writes.
func open(ctx context.Context, disk sdk.Disk) (store.Store, error) {
	settings, err := settingsFrom(disk.Options)
	if err != nil {
		return nil, err
	}
	return openStore(ctx, disk.Location, settings, sdk.Logger())
}
