// SPDX-License-Identifier: GPL-3.0-or-later

package conformance

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/flexnbd/flexnbd/core/host"
	"github.com/flexnbd/flexnbd/sdk/fdstore/looptest"
	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/storetest"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// open opens a disk in a running plugin.
func open(t testing.TB, p *host.Process, location string) store.Store {
	t.Helper()
	s, err := p.OpenDisk(t.Context(), wire.Disk{Location: location})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestFileBackend(t *testing.T) {
	p := start(t, wire.KindBackend, "flexnbd-backend-file")
	storetest.Run(t, func(t testing.TB, size int64) store.Store {
		image := filepath.Join(t.TempDir(), "disk.img")
		if err := os.WriteFile(image, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(image, size); err != nil {
			t.Fatal(err)
		}
		return open(t, p, image)
	})
}

func TestBlockdevBackend(t *testing.T) {
	const size = 16<<20 + 4096
	p := start(t, wire.KindBackend, "flexnbd-backend-blockdev")
	storetest.Suite{
		Open: func(t testing.TB, _ int64) store.Store {
			return open(t, p, looptest.New(t, looptest.Options{Size: size}).Path)
		},
		FixedSize: size,
		SizeUnit:  512,
	}.Run(t)
}

func TestMemoryBackend(t *testing.T) {
	p := start(t, wire.KindBackend, "plugin-memory")
	storetest.Run(t, func(t testing.TB, size int64) store.Store {
		return open(t, p, strconv.FormatInt(size, 10))
	})
}
