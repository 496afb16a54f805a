// SPDX-License-Identifier: GPL-3.0-or-later

package journal

import "fmt"

// value is what a sector holds: the write that it came from, as the connection's
// number in the upper bits and the write's number on it in the lower ones.
type value uint64

const (
	zero  value = 0         // zeroes, as every disk starts with
	mixed value = 1<<64 - 1 // bytes that are no write's; no write has this value
	seqs        = 40        // bits of a write's number
)

func valueOf(writer int, seq uint64) value { return value(writer)<<seqs | value(seq) }

func (v value) writer() int { return int(v >> seqs) }
func (v value) seq() uint64 { return uint64(v & (1<<seqs - 1)) }

func (v value) String() string {
	switch {
	case v == zero:
		return "zeroes"
	case v == mixed:
		return "bytes that are no write's"
	case v.writer() == filler:
		return fmt.Sprintf("what Fill wrote (%d)", v.seq())
	}
	return fmt.Sprintf("write %d of connection %d", v.seq(), v.writer())
}

// filler is who writes what the disk holds before any connection does.
const filler = 0
