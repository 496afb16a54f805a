// SPDX-License-Identifier: GPL-3.0-or-later

package blockdev

import (
	"context"
	"fmt"
	"testing"

	"github.com/flexnbd/flexnbd/sdk/fdstore/looptest"
	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/storetest"
	"github.com/flexnbd/flexnbd/sdk/wire"
	"github.com/flexnbd/flexnbd/sdk/wire/wiretest"
)

// size of most devices, in bytes: with blocks of 512 it ends within a page.
const size = 1<<20 + 64<<10

func TestConformance(t *testing.T) {
	for _, block := range []int64{512, 4096} {
		t.Run(fmt.Sprintf("BlocksOf%d", block), func(t *testing.T) {
			suite(block, func(t testing.TB, path string) store.Store {
				s, err := Open(context.Background(), path, false)
				if err != nil {
					t.Fatal(err)
				}
				return s
			}).Run(t)
		})
	}
	t.Run("OverTheWire", func(t *testing.T) {
		suite(512, func(t testing.TB, path string) store.Store {
			return wiretest.Store(t, func(ctx context.Context, _ wire.Disk) (store.Store, error) {
				return Open(ctx, path, false)
			})
		}).Run(t)
	})
}

func suite(block int64, open func(t testing.TB, path string) store.Store) storetest.Suite {
	return storetest.Suite{
		Open: func(t testing.TB, _ int64) store.Store {
			return open(t, looptest.New(t, looptest.Options{Size: size + block, LogicalBlock: uint32(block)}).Path)
		},
		FixedSize: size + block, SizeUnit: block,
	}
}
