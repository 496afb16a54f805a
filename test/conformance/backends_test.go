// SPDX-License-Identifier: GPL-3.0-or-later

package conformance

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/flexnbd/flexnbd/core/host"
	"github.com/flexnbd/flexnbd/sdk/fdstore/looptest"
	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/storetest"
	"github.com/flexnbd/flexnbd/sdk/wire"
	"github.com/flexnbd/flexnbd/sdk/wire/wiretest"
)

// onLane opens a disk as a server does, in a plugin of its own, and returns what a
// session sees of it.
func onLane(t testing.TB, program host.Program, lane, location string) store.Store {
	t.Helper()
	h, err := host.New(hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	d, err := h.OpenDisk(t.Context(), program, wire.Disk{Location: location, Lanes: []string{lane}})
	if err != nil {
		t.Fatal(err)
	}
	if got := d.Lane(); got != lane {
		t.Errorf("the lane is %s, want %s", got, lane)
	}
	return wiretest.OverQueue(d, func(sink wire.Sink) wire.Queue { return d.NewQueue(context.Background(), sink) })
}

// onEachLane runs a suite on each lane that a backend has.
func onEachLane(t *testing.T, binary string, lanes []string, suite storetest.Suite, create func(t testing.TB, size int64) (location string)) {
	program := find(t, wire.KindBackend, binary)
	for _, lane := range lanes {
		t.Run(lane, func(t *testing.T) {
			suite.Open = func(t testing.TB, size int64) store.Store {
				return onLane(t, program, lane, create(t, size))
			}
			suite.Run(t)
		})
	}
}

// allLanes are those of a backend that has a descriptor to lend.
var allLanes = []string{wire.LaneFile, wire.LaneRing, wire.LaneRPC}

func TestFileBackend(t *testing.T) {
	onEachLane(t, "flexnbd-backend-file", allLanes, storetest.Suite{}, func(t testing.TB, size int64) string {
		image := filepath.Join(t.TempDir(), "disk.img")
		if err := os.WriteFile(image, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(image, size); err != nil {
			t.Fatal(err)
		}
		return image
	})
}

func TestBlockdevBackend(t *testing.T) {
	const size = 16<<20 + 4096
	create := func(t testing.TB, _ int64) string {
		return looptest.New(t, looptest.Options{Size: size}).Path
	}
	onEachLane(t, "flexnbd-backend-blockdev", allLanes, storetest.Suite{FixedSize: size, SizeUnit: 512}, create)
}

func TestMemoryBackend(t *testing.T) {
	onEachLane(t, "plugin-memory", []string{wire.LaneRing, wire.LaneRPC}, storetest.Suite{}, func(_ testing.TB, size int64) string {
		return strconv.FormatInt(size, 10)
	})
}
