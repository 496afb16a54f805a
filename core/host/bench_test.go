// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/flexnbd/flexnbd/sdk/store"
)

// nothing is a store that takes everything at once.
type nothing struct{ store.Store }

func (nothing) ReadAt(context.Context, []byte, int64) error               { return nil }
func (nothing) WriteAt(context.Context, []byte, int64, store.Flags) error { return nil }

// BenchmarkDisk is what a Disk adds to one call while others are in flight: the
// lock on the range, whose cost grows with them, and the look at the process. One
// goroutine at a time, then as many as there are processors.
func BenchmarkDisk(b *testing.B) {
	for _, inFlight := range []int{1, 16, 64, 256} {
		d := &Disk{info: store.Info{Replayable: true}, current: &opened{store: nothing{}}}
		for i := range int64(inFlight - 1) {
			if _, err := d.ranges.Lock(b.Context(), i<<20, i<<20+4096, i%2 == 0); err != nil {
				b.Fatal(err)
			}
		}
		p := make([]byte, 4096)
		var last atomic.Int64
		last.Store(1 << 40)
		for name, call := range map[string]func(off int64) error{
			"read":  func(off int64) error { return d.ReadAt(b.Context(), p, off) },
			"write": func(off int64) error { return d.WriteAt(b.Context(), p, off, 0) },
		} {
			b.Run(fmt.Sprintf("%s/inflight=%d", name, inFlight), func(b *testing.B) {
				b.ReportAllocs()
				for off := int64(1 << 40); b.Loop(); off += 4096 {
					if err := call(off); err != nil {
						b.Fatal(err)
					}
				}
			})
			b.Run(fmt.Sprintf("%s/inflight=%d/parallel", name, inFlight), func(b *testing.B) {
				b.RunParallel(func(pb *testing.PB) {
					for off := last.Add(1 << 40); pb.Next(); off += 4096 {
						if err := call(off); err != nil {
							b.Error(err)
							return
						}
					}
				})
			})
		}
	}
}
