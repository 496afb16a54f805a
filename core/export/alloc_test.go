// SPDX-License-Identifier: GPL-3.0-or-later

//go:build !race

package export

import (
	"testing"

	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// The race detector makes sync.Pool forget at random, so this holds without it.
func TestCommonRequestsAllocateNothing(t *testing.T) {
	e, err := Open(t.Context(), nullStore{store.Info{Size: 1 << 40, CanPunch: true}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close(t.Context())
	q := e.NewQueue(t.Context(), func([]*wire.Request) {}).(*queue)
	q.lane = nullLane{q.landed}
	for name, r := range map[string]*wire.Request{
		"read": read(0, 4096), "write": write(100, data, 0), "zero": zero(1, 1<<20, 0),
	} {
		batch := []*wire.Request{r}
		if n := testing.AllocsPerRun(1000, func() { q.Submit(batch) }); n >= 1 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
