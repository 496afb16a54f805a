// SPDX-License-Identifier: Apache-2.0

// Command plugin-memory is package memstore as a backend plugin: a disk that
// lives in the plugin's memory and is gone with it. It is built with nothing but
// the SDK, as a third party's would be, and the tests serve it beside the stock
// backends.
//
//	flexnbd serve --backend /path/to/plugin-memory --file 64M ...
package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/flexnbd/flexnbd/sdk"
	"github.com/flexnbd/flexnbd/sdk/memstore"
	"github.com/flexnbd/flexnbd/sdk/store"
)

func main() {
	sdk.ServeBackend(sdk.Backend{Name: "memory", Version: sdk.Version, Open: open})
}

// open makes a disk of the size that --file says.
func open(_ context.Context, disk sdk.Disk) (store.Store, error) {
	size, err := parseSize(disk.Location)
	if err != nil {
		return nil, err
	}
	return memstore.New(size), nil
}

// parseSize reads a number of bytes, with K, M or G behind it for 2^10, 2^20, 2^30.
func parseSize(s string) (int64, error) {
	number, shift := s, 0
	for i, unit := range []string{"K", "M", "G"} {
		if n, ok := strings.CutSuffix(s, unit); ok {
			number, shift = n, 10*(i+1)
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > store.MaxSize>>shift {
		return 0, fmt.Errorf("--file %q is no size for a disk in memory; write 64M, say: %w", s, store.ErrInvalid)
	}
	return n << shift, nil
}
