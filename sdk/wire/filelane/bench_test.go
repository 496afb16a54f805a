// SPDX-License-Identifier: Apache-2.0

package filelane

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/flexnbd/flexnbd/sdk/memstore"
	"github.com/flexnbd/flexnbd/sdk/rangelock"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// BenchmarkLane times requests of pages that are cached, in batches of 32: what is
// not the kernel's is the lane's.
//
//	go test -run '^$' -bench Lane ./sdk/wire/filelane
func BenchmarkLane(b *testing.B) {
	const size = 64 << 20
	for _, bench := range []struct {
		name   string
		op     wire.Op
		length int64
		lend   bool
	}{
		{"read/4KiB", wire.OpRead, 4 << 10, false},
		{"write/4KiB", wire.OpWrite, 4 << 10, false},
		{"read/256KiB/copied", wire.OpRead, 256 << 10, false},
		{"read/256KiB/lent", wire.OpRead, 256 << 10, true},
	} {
		for place, dir := range map[string]string{"tmpfs": "/dev/shm", "disk": b.TempDir()} {
			b.Run(fmt.Sprintf("%s/%s", bench.name, place), func(b *testing.B) {
				f := image(b, dir, size)
				if err := fill(f, size); err != nil {
					b.Fatal(err)
				}
				lane := New(&rangelock.Lock{})
				lane.Use(lent(b, f))
				answered := 0
				sink := func(done []*wire.Request) {
					answered += len(done)
					for _, r := range done {
						if r.Lent != nil {
							r.Lent.Leave()
						}
					}
				}
				q := lane.NewQueue(wire.NewQueue(context.Background(), memstore.New(size), sink), sink)
				batch := make([]*wire.Request, 32)
				for i := range batch {
					batch[i] = &wire.Request{Op: bench.op, Length: bench.length, MayLend: bench.lend, Data: &wire.Payload{Bytes: make([]byte, bench.length)}}
				}
				b.SetBytes(bench.length)
				b.ReportAllocs()
				b.ResetTimer()
				for n := 0; n < b.N; n += len(batch) {
					for i, r := range batch {
						r.Offset = int64(n+i) * bench.length % size
					}
					q.Submit(batch)
				}
				b.StopTimer()
				if err := q.Close(); err != nil || answered < b.N {
					b.Fatalf("%d of %d requests answered, %v", answered, b.N, err)
				}
			})
		}
	}
}

// fill writes all of a file, so that no page is a hole.
func fill(f *os.File, size int64) error {
	p := make([]byte, 1<<20)
	for off := int64(0); off < size; off += int64(len(p)) {
		if _, err := f.WriteAt(p, off); err != nil {
			return err
		}
	}
	return nil
}
