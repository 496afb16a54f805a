// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"testing"
)

func TestHeaderBelongsToItsKeyOnly(t *testing.T) {
	mine, other := key(randomBytes(keySize)), key(randomBytes(keySize))
	made, err := newHeader(mine)
	if err != nil {
		t.Fatal(err)
	}
	h, err := decodeHeader(made.encode())
	if err != nil {
		t.Fatal(err)
	}
	for k, want := range map[key]bool{mine: true, other: false} {
		if got, err := h.belongsTo(k); err != nil || got != want {
			t.Errorf("belongsTo is %v (%v), want %v", got, err, want)
		}
	}
	h.salt[0] ^= 1
	if yes, _ := h.belongsTo(mine); yes {
		t.Error("a header with another salt belongs to the key")
	}
}

// Whatever is in a file: what is taken for a header is written as the same bytes,
// so that nothing in it was overlooked.
func FuzzDecodeHeader(f *testing.F) {
	h := header{salt: [saltSize]byte{1, 2, 3}, check: [checkSize]byte{4, 5, 6}}
	f.Add(h.encode())
	f.Add(h.encode()[:headerEnd])
	f.Add(make([]byte, headerSize))
	f.Add([]byte(magic))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, p []byte) {
		before := bytes.Clone(p)
		h, err := decodeHeader(p)
		if !bytes.Equal(p, before) {
			t.Fatal("decoding changed the header")
		}
		if err != nil {
			if h != (header{}) {
				t.Fatal("an error came with a header")
			}
			return
		}
		if !bytes.Equal(h.encode(), p) {
			t.Fatal("what was decoded is not what is encoded")
		}
	})
}
