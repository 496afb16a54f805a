// SPDX-License-Identifier: GPL-3.0-or-later

package journal

import (
	"testing"

	"github.com/flexnbd/flexnbd/sdk/memstore"
)

// BenchmarkCheck judges a history of 30000 requests on a disk of 64 MiB.
func BenchmarkCheck(b *testing.B) {
	const size = 64 << 20
	d, s := NewDisk(size), memstore.New(size)
	must(b, d.Fill(reading{s}, 0, size/2))
	a := serve(b, s)
	l, err := NewLoad(d, Options{Servers: []Server{TCP(a.address)}, Seed: 1})
	must(b, err)
	l.Start()
	must(b, l.AwaitAcknowledged(limited(b), 30000))
	must(b, l.Stop(limited(b)))
	for b.Loop() {
		r, err := d.Check(limited(b), reading{s})
		must(b, err)
		b.ReportMetric(float64(r.Searched), "searched")
	}
}

// BenchmarkDecode is what reading costs besides.
func BenchmarkDecode(b *testing.B) {
	var buf [SectorSize]byte
	encode(buf[:], 42, valueOf(1, 2), 3)
	b.SetBytes(SectorSize)
	for b.Loop() {
		if decode(buf[:], 42, 3) == mixed {
			b.Fatal("not read")
		}
	}
}
