// SPDX-License-Identifier: Apache-2.0

// Command backend is a file, as a backend of SDK 0.1 serves it: lent, with a lease that
// outlives its process, or with --backend old,lend=no through calls and rings.
package main

import (
	"context"
	"os"

	"github.com/flexnbd/flexnbd/sdk"
	"github.com/flexnbd/flexnbd/sdk/fdstore"
	"github.com/flexnbd/flexnbd/sdk/option"
	"github.com/flexnbd/flexnbd/sdk/store"
)

func main() {
	sdk.ServeBackend(sdk.Backend{
		Name: "old", Version: "0.1.0", Open: open,
		About: sdk.About{Vendor: "The past", License: "Apache-2.0"},
		Options: option.Set{
			{Name: "lend", Type: option.Bool, Default: "yes", Help: "whether flexnbd may use the file by itself"},
			{Name: "note", Help: "nothing"},
		},
	})
}

func open(_ context.Context, disk sdk.Disk) (store.Store, error) {
	file, err := openFile(disk)
	if err != nil {
		return nil, err
	}
	sdk.Logger().Debug("opened", "location", disk.Location)
	if disk.Options.Bool("lend") {
		return file, nil
	}
	return &kept{file}, nil
}

func openFile(disk sdk.Disk) (*fdstore.Store, error) {
	options := fdstore.Options{ReadOnly: disk.ReadOnly}
	if disk.Lease != nil {
		return fdstore.Reopen(disk.Lease, disk.Location, options)
	}
	flags := os.O_RDWR
	if disk.ReadOnly {
		flags = os.O_RDONLY
	}
	f, err := os.OpenFile(disk.Location, flags, 0)
	if err != nil {
		return nil, err
	}
	file, err := fdstore.New(f, options)
	if err != nil {
		_ = f.Close()
	}
	return file, err
}

// kept is a file that is not lent.
type kept struct{ file *fdstore.Store }

func (k *kept) Info() store.Info { return k.file.Info() }

func (k *kept) ReadAt(ctx context.Context, p []byte, off int64) error {
	return k.file.ReadAt(ctx, p, off)
}

func (k *kept) WriteAt(ctx context.Context, p []byte, off int64, flags store.Flags) error {
	return k.file.WriteAt(ctx, p, off, flags)
}

func (k *kept) PunchHole(ctx context.Context, off, length int64, flags store.Flags) error {
	return k.file.PunchHole(ctx, off, length, flags)
}

func (k *kept) Extents(ctx context.Context, off, length int64) ([]store.Extent, error) {
	return k.file.Extents(ctx, off, length)
}

func (k *kept) Flush(ctx context.Context) error { return k.file.Flush(ctx) }

func (k *kept) Close() error { return k.file.Close() }
