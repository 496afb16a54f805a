// SPDX-License-Identifier: GPL-3.0-or-later

package file

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/storetest"
	"github.com/flexnbd/flexnbd/sdk/wire"
	"github.com/flexnbd/flexnbd/sdk/wire/wiretest"
)

func TestConformance(t *testing.T) {
	for _, dir := range []string{os.TempDir(), "/dev/shm"} { // a disk's file system, and tmpfs
		t.Run(dir, func(t *testing.T) {
			storetest.Run(t, func(t testing.TB, size int64) store.Store {
				s, err := Open(context.Background(), image(t, dir, size), false)
				if err != nil {
					t.Fatal(err)
				}
				return s
			})
		})
	}
}

func TestConformanceOverTheWire(t *testing.T) {
	storetest.Run(t, func(t testing.TB, size int64) store.Store {
		path := image(t, os.TempDir(), size)
		return wiretest.Store(t, func(ctx context.Context, _ wire.Disk) (store.Store, error) {
			return Open(ctx, path, false)
		})
	})
}

// image makes an image that is all hole.
func image(t testing.TB, dir string, size int64) string {
	own, err := os.MkdirTemp(dir, "flexnbd-test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(own) })
	path := filepath.Join(own, "disk.img")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}
