// SPDX-License-Identifier: GPL-3.0-or-later

package journal

import (
	"encoding/binary"
	"fmt"
)

// SectorSize is the unit of the model, in bytes.
const SectorSize = 512

const words = SectorSize / 8

// A sector is a head of four words, then a filling that follows from the head, so
// that a sector of two halves from two writes is neither.
const (
	headMagic = iota
	headTag   // of the Disk
	headValue
	headSector
	headWords
)

const magic = 0x666c65786a6f7572 // "flexjour"

// word returns word i of what a write leaves in a sector.
func word(tag uint64, v value, sector int64, i int) uint64 {
	if v == zero {
		return 0
	}
	switch i {
	case headMagic:
		return magic
	case headTag:
		return tag
	case headValue:
		return uint64(v)
	case headSector:
		return uint64(sector)
	}
	return mix(tag^mix(uint64(v))^mix(uint64(sector)<<1|1)) + uint64(i)*0x9e3779b97f4a7c15
}

// mix is the finalizer of splitmix64: neighbouring numbers become unlike ones.
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// encode fills b, whole sectors, with what the write v leaves from sector first on.
func encode(b []byte, tag uint64, v value, first int64) {
	if v == zero {
		clear(b)
		return
	}
	for ; len(b) > 0; b = b[SectorSize:] {
		for i := range headWords {
			binary.LittleEndian.PutUint64(b[8*i:], word(tag, v, first, i))
		}
		w := word(tag, v, first, headWords)
		for i := headWords; i < words; i++ {
			binary.LittleEndian.PutUint64(b[8*i:], w)
			w += 0x9e3779b97f4a7c15
		}
		first++
	}
}

// decode says which write b, one sector, came from; mixed if from none, or not to
// this place.
func decode(b []byte, tag uint64, sector int64) value {
	v := zero
	if head := binary.LittleEndian.Uint64(b); head != 0 {
		v = value(binary.LittleEndian.Uint64(b[8*headValue:]))
		if v == zero || v == mixed {
			return mixed
		}
	}
	var want [SectorSize]byte
	encode(want[:], tag, v, sector)
	if want != [SectorSize]byte(b) {
		return mixed
	}
	return v
}

// describe says what can be said of a sector that decodes to mixed.
func describe(b []byte, tag uint64, sector int64) string {
	at := func(i int) uint64 { return binary.LittleEndian.Uint64(b[8*i:]) }
	switch {
	case at(headMagic) != magic:
		return fmt.Sprintf("bytes that no write of a journal made, beginning with % x", b[:16])
	case at(headTag) != tag:
		return "what a journal of another disk, or of another run, has written"
	}
	v, where := value(at(headValue)), int64(at(headSector))
	for i := range words {
		if at(i) != word(tag, v, where, i) {
			return fmt.Sprintf("a torn sector: %v up to byte %d, and something else from there", v, 8*i)
		}
	}
	return fmt.Sprintf("the content of sector %d, from %v", where, v)
}

// spliced says whether each word of b, a sector, is that of one of the writes.
func spliced(b []byte, tag uint64, sector int64, writes []value) bool {
	for i := range words {
		w := binary.LittleEndian.Uint64(b[8*i:])
		found := w == 0
		for j := 0; !found && j < len(writes); j++ {
			found = w == word(tag, writes[j], sector, i)
		}
		if !found {
			return false
		}
	}
	return true
}
