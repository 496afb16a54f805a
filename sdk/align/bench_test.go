// SPDX-License-Identifier: Apache-2.0

package align

import (
	"context"
	"testing"

	"github.com/flexnbd/flexnbd/sdk/memstore"
	"github.com/flexnbd/flexnbd/sdk/store"
)

// instant is a disk of blocks of 4096 bytes that does nothing.
type instant struct{ store.Store }

func (instant) Info() store.Info {
	return store.Info{Size: 1 << 30, MinBlock: 4096, Unaligned: store.RefusesUnaligned}
}

func (instant) ReadAt(context.Context, []byte, int64) error { return nil }

func (instant) WriteAt(context.Context, []byte, int64, store.Flags) error { return nil }

// BenchmarkRead is what align costs a read: Direct goes without. AmidSmallWrites has a
// goroutine beside it that does nothing else than write to another block.
func BenchmarkRead(b *testing.B) {
	behind := instant{memstore.New(0)}
	disk := New(behind)
	b.Run("Direct", func(b *testing.B) { read(b, behind, 0, 4096) })
	b.Run("Aligned", func(b *testing.B) { read(b, disk, 0, 4096) })
	b.Run("Unaligned", func(b *testing.B) { read(b, disk, 1, 512) })
	b.Run("AmidSmallWrites", func(b *testing.B) {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() {
			var err error
			for p := make([]byte, 512); ctx.Err() == nil && err == nil; {
				err = disk.WriteAt(context.Background(), p, 512<<20+1, 0)
			}
			done <- err
		}()
		read(b, disk, 0, 4096)
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
}

// read reads on all processors, somewhere else each time.
func read(b *testing.B, disk store.Store, off int64, length int) {
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		p := make([]byte, length)
		for at := off; pb.Next(); at = (at + 1<<20) % (512 << 20) {
			if err := disk.ReadAt(context.Background(), p, at); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
