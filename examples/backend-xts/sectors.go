// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/aes"
	"encoding/binary"
	"fmt"

	"golang.org/x/crypto/xts"
)

const (
	// sectorSize is what is encrypted as one, in bytes: XTS calls it a data unit.
	// Their numbers count from 0 at the disk's first byte.
	sectorSize = 4096

	blockSize       = aes.BlockSize // bytes
	blocksPerSector = sectorSize / blockSize
)

// sectors encrypts and decrypts whole sectors. It may be used by many goroutines.
//
// # Zeroes
//
// A stored block of 16 zero bytes stands for 16 zero bytes. So a hole in the file
// reads as zeroes, as does what a punch has left.
//
// Encryption doesn't know of this rule, and could make such a block out of
// something else, which would then read as zeroes. The chance is 2^-128 for each
// block that is written: after an exbibyte of writes it is 2^-72, far less than
// that of a disk which returns wrong bytes by itself. Nobody without the key can
// look for plaintext that does it.
//
// Why a rule for blocks, where one for sectors would do for holes? Because a
// sector may be seen half written: by everybody after a power cut, or by a reader
// whose request overlaps the write. Of a sector that was a hole, one part is then new
// ciphertext and the other part still zeroes, and a rule for sectors would decrypt
// those to noise: neither the old bytes nor the new ones, and after a power cut perhaps
// bytes that nobody was writing, since align writes back what is around a small write
// (and lets nobody read that meanwhile). With a rule for blocks each block is old or
// new. (A sector that held data before has no such problem: XTS encrypts every block
// for itself, and the bytes around the small write to what they were.) That rests on
// 16 aligned bytes being copied and stored as one, which memory and disks do.
type sectors struct{ cipher *xts.Cipher }

// newSectors takes the 64 bytes of an XTS-AES-256 key.
func newSectors(xtsKey []byte) (*sectors, error) {
	c, err := xts.NewCipher(aes.NewCipher, xtsKey)
	if err != nil {
		return nil, fmt.Errorf("setting up AES-XTS: %w", err)
	}
	return &sectors{cipher: c}, nil
}

// encrypt puts the sectors in plain, the first of which has the number first,
// into stored. Both are equally long, and the same memory or apart.
func (s *sectors) encrypt(stored, plain []byte, first uint64) {
	for ; len(plain) > 0; first++ {
		s.cipher.Encrypt(stored[:sectorSize], plain[:sectorSize], first)
		stored, plain = stored[sectorSize:], plain[sectorSize:]
	}
}

// decrypt turns the sectors in p, as they are stored, into plaintext.
func (s *sectors) decrypt(p []byte, first uint64) {
	for ; len(p) > 0; first++ {
		s.decryptOne(p[:sectorSize], first)
		p = p[sectorSize:]
	}
}

func (s *sectors) decryptOne(sector []byte, number uint64) {
	var zero [blocksPerSector]bool
	zeroes := 0
	for i := range zero {
		block := sector[i*blockSize:]
		if binary.NativeEndian.Uint64(block)|binary.NativeEndian.Uint64(block[8:]) == 0 {
			zero[i] = true
			zeroes++
		}
	}
	if zeroes == blocksPerSector { // a hole
		return
	}
	s.cipher.Decrypt(sector, sector, number)
	if zeroes == 0 { // as good as always
		return
	}
	for i, was := range zero {
		if was {
			clear(sector[i*blockSize : (i+1)*blockSize])
		}
	}
}
