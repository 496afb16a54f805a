// SPDX-License-Identifier: GPL-3.0-or-later

package load

import (
	"bytes"
	"testing"
)

func TestContentIsFoundRightInPiecesOfAnyLength(t *testing.T) {
	const from = 7 * PageSize
	content := make([]byte, 3*PageSize)
	Fill(content, from)
	for _, step := range []int{1, 5, 8, 100, 4095, 4096, 4097, 9000} {
		for at := 0; at < len(content); at += step {
			piece := content[at:min(at+step, len(content))]
			if err := checkAll(piece, uint64(from+at)); err != nil {
				t.Fatalf("pieces of %d: %v", step, err)
			}
			if err := checkStamps(piece, uint64(from+at)); err != nil {
				t.Fatalf("stamps, pieces of %d: %v", step, err)
			}
		}
	}
}

func TestEveryWrongByteIsFound(t *testing.T) {
	content := make([]byte, 2*PageSize)
	Fill(content, 0)
	for i := range content {
		content[i] ^= 1
		if checkAll(content, 0) == nil {
			t.Fatalf("byte %d is wrong, and nobody notices", i)
		}
		if inStamp := i%PageSize < stampSize; inStamp != (checkStamps(content, 0) != nil) {
			t.Fatalf("byte %d is wrong; noticed by its stamp: %v", i, !inStamp)
		}
		content[i] ^= 1
	}
	if checkAll(content, PageSize) == nil || checkStamps(content, PageSize) == nil {
		t.Error("content from elsewhere is not noticed")
	}
}

func TestNoPageIsZeroes(t *testing.T) {
	page := make([]byte, PageSize)
	Fill(page, 0)
	if zeroes := bytes.Count(page, []byte{0}); zeroes > PageSize/16 {
		t.Errorf("%d bytes of a page are zero", zeroes)
	}
}

func TestRestampedPagesAreThoseOfTheirPlace(t *testing.T) {
	have, want := make([]byte, 2*PageSize), make([]byte, 2*PageSize)
	Fill(have, 0)
	restamp(have, 5*PageSize)
	Fill(want, 5*PageSize)
	if !bytes.Equal(have, want) {
		t.Error("a restamped page differs from a filled one")
	}
}
