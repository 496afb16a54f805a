// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"

	"github.com/flexnbd/flexnbd/sdk"
	"github.com/flexnbd/flexnbd/sdk/fdstore"
	"github.com/flexnbd/flexnbd/sdk/store"
)

// open opens the disk in the image that --file names, with the key in the file
// that the option "key" names.
func open(ctx context.Context, disk sdk.Disk) (store.Store, error) {
	// First of all the file: after a crash the lease belongs to this process, so
	// something has to own it before anything can fail.
	lower, err := openImage(disk)
	if err != nil {
		return nil, err
	}
	s, err := decrypting(ctx, lower, disk)
	if err != nil {
		_ = lower.Close()
		return nil, err
	}
	return s, nil
}

// openImage opens and locks the image: on the descriptor that a crashed process
// has left, or else by its path.
func openImage(disk sdk.Disk) (store.Leaser, error) {
	options := fdstore.Options{ReadOnly: disk.ReadOnly}
	if disk.Lease != nil {
		return fdstore.Reopen(disk.Lease, disk.Location, options)
	}
	if disk.Location == "" {
		return nil, fmt.Errorf("no image is given; name it with --file: %w", store.ErrInvalid)
	}
	flags := os.O_RDWR
	if disk.ReadOnly {
		flags = os.O_RDONLY
	}
	f, err := openRegular("image", disk.Location, flags)
	if err != nil {
		return nil, fmt.Errorf("%w; make an image with truncate: see README.md", err)
	}
	lower, err := fdstore.New(f, options)
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return lower, nil
}

// decrypting makes the disk of what is in the image.
func decrypting(ctx context.Context, lower store.Leaser, disk sdk.Disk) (store.Store, error) {
	keyFile := disk.Options["key"] // there, and nothing else is: see main
	k, err := readKey(keyFile)
	if err != nil {
		return nil, err
	}
	i := image{lower: lower, name: disk.Location, keyFile: keyFile}
	s, err := i.sectors(ctx, k)
	if err != nil {
		return nil, err
	}
	return newStore(lower, s), nil
}

// openRegular opens the regular file at path, which is a what to the operator. It
// looks first: to open a FIFO is to wait for its other end.
func openRegular(what, path string, flags int) (*os.File, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("%s cannot be opened: %w", what, err)
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s %s is no regular file (mode %v): %w", what, path, st.Mode(), store.ErrInvalid)
	}
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return nil, fmt.Errorf("%s cannot be opened: %w", what, err)
	}
	return f, nil
}
