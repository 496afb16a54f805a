// SPDX-License-Identifier: Apache-2.0

package memstore

import (
	"context"
	"testing"

	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/storetest"
)

func TestMemstoreKeepsTheContract(t *testing.T) {
	storetest.Run(t, func(_ testing.TB, size int64) store.Store { return New(size) })
}

func TestOnlyWrittenPagesTakeMemory(t *testing.T) {
	ctx := context.Background()
	disk := New(1<<40 + 100)
	pages := func(want int) {
		t.Helper()
		if got := len(disk.pages); got != want {
			t.Fatalf("disk holds %d pages, want %d", got, want)
		}
	}
	pages(0)
	if err := disk.WriteAt(ctx, make([]byte, 2), 1<<40-1, 0); err != nil {
		t.Fatal(err)
	}
	pages(2)
	// The last page is cut short by the end of the disk.
	if err := disk.PunchHole(ctx, 1<<40, 100, 0); err != nil {
		t.Fatal(err)
	}
	pages(1)
	if err := disk.PunchHole(ctx, 1<<40-10, 10, 0); err != nil {
		t.Fatal(err)
	}
	pages(1) // cleared in part: no reason to free it
	if err := disk.PunchHole(ctx, 0, 3*pageSize, store.KeepAllocated); err != nil {
		t.Fatal(err)
	}
	pages(4)
}

func TestExtentsOfAHugeDiskAnswerInBoundedPieces(t *testing.T) {
	disk := New(1 << 50)
	extents, err := disk.Extents(context.Background(), 0, 1<<50)
	if err != nil || len(extents) != 1 || extents[0].Length != extentReach {
		t.Fatalf("extents %v, error %v, want one of %d bytes", extents, err, extentReach)
	}
}
