// SPDX-License-Identifier: GPL-3.0-or-later

package load

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
)

// PageSize is the unit of the content and of requests, in bytes.
const PageSize = 4096

// A page is a stamp, which says where it belongs, and noise, which is the same in
// all pages: one comparison of 8 bytes finds a page in the wrong place, and one of
// the whole page costs little, since the noise stays in the CPU's cache. No page is
// zero, or a server that knows zeroes would not have to read it.
const stampSize = 8

var noise = func() (page [PageSize]byte) {
	_, _ = rand.NewChaCha8([32]byte{'f', 'l', 'e', 'x', 'n', 'b', 'd'}).Read(page[:])
	return page
}()

// stamp is what the page at off begins with.
func stamp(off uint64) uint64 { return off ^ 0x9e3779b97f4a7c15 }

// Fill makes the content of a disk at off. Both off and the length of p are
// multiples of [PageSize].
func Fill(p []byte, off uint64) {
	for ; len(p) > 0; p, off = p[PageSize:], off+PageSize {
		copy(p, noise[:])
		binary.LittleEndian.PutUint64(p, stamp(off))
	}
}

// restamp makes the noise in p the content at off.
func restamp(p []byte, off uint64) {
	for i := uint64(0); i < uint64(len(p)); i += PageSize {
		binary.LittleEndian.PutUint64(p[i:], stamp(off+i))
	}
}

// checkStamps looks at the stamps that are wholly in p, which was read at off.
func checkStamps(p []byte, off uint64) error {
	first := -off % PageSize // to the next page, 0 at its beginning
	for i := first; i+stampSize <= uint64(len(p)); i += PageSize {
		if have := binary.LittleEndian.Uint64(p[i:]); have != stamp(off+i) {
			return wrongContent(off + i)
		}
	}
	return nil
}

// checkAll looks at every byte of p, which was read at off.
func checkAll(p []byte, off uint64) error {
	for len(p) > 0 {
		in := off % PageSize
		n := min(uint64(len(p)), PageSize-in)
		if in < stampSize {
			n = min(n, stampSize-in)
			var want [stampSize]byte
			binary.LittleEndian.PutUint64(want[:], stamp(off-in))
			if !bytes.Equal(p[:n], want[in:in+n]) {
				return wrongContent(off)
			}
		} else if !bytes.Equal(p[:n], noise[in:in+n]) {
			return wrongContent(off)
		}
		p, off = p[n:], off+n
	}
	return nil
}

func wrongContent(off uint64) error {
	return fmt.Errorf("the data at offset %d is not what the disk was filled with", off)
}
