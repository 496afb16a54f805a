// SPDX-License-Identifier: GPL-3.0-or-later

package journal

import "math/rand/v2"

// picker chooses a connection's requests.
type picker struct {
	*rand.Rand
	o    Options
	size int64
}

func newPicker(o Options, size int64, connection int) *picker {
	return &picker{rand.New(rand.NewPCG(o.Seed, uint64(connection))), o, size}
}

// next chooses a request: what, where, and how long, in bytes.
func (p *picker) next() (k kind, off, length int64) {
	switch n := p.IntN(p.o.Reads + p.o.Writes + p.o.Zeroes); {
	case n < p.o.Reads:
		k = read
	case n < p.o.Reads+p.o.Writes:
		k = write
	default:
		k = zeroes
	}
	align := p.o.Align
	length = p.o.Smallest + align*p.Int64N((p.o.Largest-p.o.Smallest)/align+1)
	from, to := int64(0), p.size
	if p.o.Hot > 0 && p.IntN(2) == 0 {
		from = p.size / hotRanges * p.Int64N(hotRanges) / align * align
		to = min(from+max(p.o.Hot, length), p.size)
		from = max(min(from, (to-length)/align*align), 0)
	}
	off = from + align*p.Int64N((to-from-length)/align+1)
	return k, off, length
}
