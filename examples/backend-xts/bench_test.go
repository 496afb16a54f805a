// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/flexnbd/flexnbd/sdk/store"
)

func BenchmarkReadAt(b *testing.B) {
	benchmark(b, func(s store.Store, p []byte, off int64) error { return s.ReadAt(b.Context(), p, off) })
}

func BenchmarkWriteAt(b *testing.B) {
	benchmark(b, func(s store.Store, p []byte, off int64) error { return s.WriteAt(b.Context(), p, off, 0) })
}

// benchmark has call work on a disk in memory, from one goroutine and from as many
// as there are processors: requests share no lock, so more should do more.
func benchmark(b *testing.B, call func(s store.Store, p []byte, off int64) error) {
	const disk = 64 << 20
	s := newDisk(b, "/dev/shm", disk).mustOpen(b)
	defer func() { _ = s.Close() }()
	write(b, s, 0, randomBytes(disk))
	for _, size := range []int{4 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			b.SetBytes(int64(size))
			b.ReportAllocs()
			p := make([]byte, size)
			for i := range b.N {
				if err := call(s, p, int64(i*size)%disk); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("%dKiB/parallel", size>>10), func(b *testing.B) {
			b.SetBytes(int64(size))
			b.ReportAllocs()
			var next atomic.Int64
			b.RunParallel(func(pb *testing.PB) {
				p := make([]byte, size)
				for pb.Next() {
					if err := call(s, p, next.Add(1)*int64(size)%disk); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}
