// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/hex"
	"testing"
)

// Vector 10 of IEEE 1619-2007, XTS-AES-256: data unit 0xff of 512 bytes, which
// are 0 to 255 twice. A data unit of 4096 bytes begins with the same ciphertext.
var vector = struct{ key, ciphertext string }{
	key: "27182818284590452353602874713526624977572470936999595749669676273141592653589793238462643383279502884197169399375105820974944592",
	ciphertext: "" +
		"1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b5d31e276f8fe4a8d66b317f9ac683f44680a86ac35adfc3345befecb4bb188fd" +
		"5776926c49a3095eb108fd1098baec70aaa66999a72a82f27d848b21d4a741b0c5cd4d5fff9dac89aeba122961d03a757123e9870f8acf1000020887891429ca" +
		"2a3e7a7d7df7b10355165c8b9a6d0a7de8b062c4500dc4cd120c0f7418dae3d0b5781c34803fa75421c790dfe1de1834f280d7667b327f6c8cd7557e12ac3a0f" +
		"93ec05c52e0493ef31a12d3d9260f79a289d6a379bc70c50841473d1a8cc81ec583e9645e07b8d9670655ba5bbcfecc6dc3966380ad8fecb17b6ba02469a020a" +
		"84e18e8f84252070c13e9f1f289be54fbc481457778f616015e1327a02b140f1505eb309326d68378f8374595c849d84f4c333ec4423885143cb47bd71c5edae" +
		"9be69a2ffeceb1bec9de244fbe15992b11b77c040f12bd8f6a975a44a0f90c29a9abc3d4d893927284c58754cce294529f8614dcd2aba991925fedc4ae74ffac" +
		"6e333b93eb4aff0479da9a410e4450e0dd7ae4c6e2910900575da401fc07059f645e8b7e9bfdef33943054ff84011493c27b3429eaedb4ed5376441a77ed4385" +
		"1ad77f16f541dfd269d50d6a5f14fb0aab1cbb4c1550be97f7ab4066193c4caa773dad38014bd2092fa755c824bb5e54c4f36ffda9fcea70b9c6e693e148c151",
}

const vectorNumber = 0xff

// x/crypto has tests of its own cipher; this one is about what a sector's number
// is: README.md promises that it counts sectors of 4096 bytes from the disk's first
// byte.
func TestKnownAnswerIsFoundAtItsSector(t *testing.T) {
	s, err := newSectors(unhex(t, vector.key))
	if err != nil {
		t.Fatal(err)
	}
	plain := make([]byte, sectorSize)
	for i := range plain {
		plain[i] = byte(i)
	}
	want := unhex(t, vector.ciphertext)

	// As the last of the sectors from 0 on, so that it is the 256th of the disk.
	disk := bytes.Repeat(plain, vectorNumber+1)
	stored := make([]byte, len(disk))
	s.encrypt(stored, disk, sectorAt(0))
	if got := stored[vectorNumber*sectorSize:]; !bytes.Equal(got[:len(want)], want) {
		t.Errorf("sector %d is not what IEEE 1619 says", vectorNumber)
	}
	// And by itself.
	s.encrypt(stored, plain, sectorAt(vectorNumber*sectorSize))
	if !bytes.Equal(stored[:len(want)], want) {
		t.Errorf("sector %d, encrypted alone, is not what IEEE 1619 says", vectorNumber)
	}
	s.decrypt(stored[:sectorSize], vectorNumber)
	if !bytes.Equal(stored[:sectorSize], plain) {
		t.Error("what was encrypted does not decrypt")
	}
}

func TestSectorsDifferByNumber(t *testing.T) {
	s, err := newSectors(randomBytes(64))
	if err != nil {
		t.Fatal(err)
	}
	stored := make([]byte, 3*sectorSize)
	s.encrypt(stored, make([]byte, len(stored)), 1<<40)
	if bytes.Equal(stored[:sectorSize], stored[sectorSize:2*sectorSize]) || allZero(stored) {
		t.Error("sectors of the same plaintext have the same ciphertext")
	}
}

// See the comment on sectors: any part of a hole that was written shows what was
// written, and the rest zeroes, wherever the two meet between blocks.
func TestHalfWrittenHoleIsPartNewAndPartZero(t *testing.T) {
	s, err := newSectors(randomBytes(64))
	if err != nil {
		t.Fatal(err)
	}
	plain := randomBytes(sectorSize)
	stored := make([]byte, sectorSize)
	s.encrypt(stored, plain, 7)
	for _, end := range []int{0, blockSize, 512, sectorSize - blockSize, sectorSize} {
		for start := 0; start <= end; start += 496 {
			got, want := make([]byte, sectorSize), make([]byte, sectorSize)
			copy(got[start:end], stored[start:end])
			// Only whole blocks: 496 and the ends are multiples of 16.
			copy(want[start:end], plain[start:end])
			s.decrypt(got, 7)
			if !bytes.Equal(got, want) {
				t.Fatalf("with bytes %d to %d written, a hole reads as neither old nor new", start, end)
			}
		}
	}
}

func unhex(t *testing.T, digits string) []byte {
	t.Helper()
	p, err := hex.DecodeString(digits)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
