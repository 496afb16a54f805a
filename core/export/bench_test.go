// SPDX-License-Identifier: GPL-3.0-or-later

package export

import (
	"context"
	"testing"

	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// nullStore takes everything at once.
type nullStore struct{ info store.Info }

func (s nullStore) Info() store.Info                                            { return s.info }
func (nullStore) ReadAt(context.Context, []byte, int64) error                   { return nil }
func (nullStore) WriteAt(context.Context, []byte, int64, store.Flags) error     { return nil }
func (nullStore) PunchHole(context.Context, int64, int64, store.Flags) error    { return nil }
func (nullStore) Extents(context.Context, int64, int64) ([]store.Extent, error) { return nil, nil }
func (nullStore) Flush(context.Context) error                                   { return nil }
func (nullStore) Close() error                                                  { return nil }

// nullLane completes everything in Submit.
type nullLane struct{ sink wire.Sink }

func (nullLane) Borrow(context.Context, int) (*wire.Payload, error) { return nil, nil }
func (nullLane) TryBorrow(int) *wire.Payload                        { return nil }
func (nullLane) Return(*wire.Payload)                               {}
func (l nullLane) Submit(batch []*wire.Request)                     { l.sink(batch) }
func (nullLane) Close() error                                       { return nil }

// benchQueue is an export's queue above a lane that costs nothing.
func benchQueue(b *testing.B) *queue {
	e, err := Open(b.Context(), nullStore{store.Info{Size: 1 << 40, CanPunch: true}}, Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { e.Close(context.Background()) })
	q := e.NewQueue(b.Context(), func([]*wire.Request) {}).(*queue)
	q.lane = nullLane{q.landed}
	return q
}

func benchSubmit(b *testing.B, q *queue, r *wire.Request) {
	batch := []*wire.Request{r}
	b.SetBytes(r.Length)
	b.ReportAllocs()
	for b.Loop() {
		q.Submit(batch)
	}
}

func BenchmarkRead(b *testing.B) { benchSubmit(b, benchQueue(b), read(0, 4096)) }

func BenchmarkDenseWrite4K(b *testing.B) { benchSubmit(b, benchQueue(b), write(0, data, 0)) }

func BenchmarkDenseWrite1M(b *testing.B) {
	benchSubmit(b, benchQueue(b), write(1234, filled(1<<20, 1), 0))
}

func BenchmarkZeroWrite4KOverKnownZero(b *testing.B) {
	q := benchQueue(b)
	q.export.zeros.markZero(0, 1<<20)
	benchSubmit(b, q, write(0, noData, 0))
}

func BenchmarkPunch4K(b *testing.B) {
	benchSubmit(b, benchQueue(b), zero(1, 4096, 0)) // never whole, so never known
}

func BenchmarkPunch64M(b *testing.B) {
	q := benchQueue(b)
	batch := []*wire.Request{zero(0, MaxZeroPiece, 0)}
	b.ReportAllocs()
	for b.Loop() {
		q.export.zeros.beginWrite(0, 1) // or it would be known
		q.export.zeros.endWrite(0, 1)
		q.Submit(batch)
	}
}

func BenchmarkZeroScanOfZeroes(b *testing.B) {
	b.SetBytes(blockSize)
	p := make([]byte, blockSize)
	for b.Loop() {
		if !allZero(p) {
			b.Fatal("not zero")
		}
	}
}

func BenchmarkZeroScanOfData(b *testing.B) {
	b.SetBytes(blockSize)
	for b.Loop() {
		if allZero(data) {
			b.Fatal("zero")
		}
	}
}
