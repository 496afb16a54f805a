// SPDX-License-Identifier: GPL-3.0-or-later

package journal

import "testing"

func TestSectorNamesItsWriteAndItsPlace(t *testing.T) {
	b := make([]byte, 3*SectorSize)
	for _, v := range []value{zero, valueOf(1, 1), valueOf(filler, 3), valueOf(1<<20, 1<<40-1)} {
		encode(b, 42, v, 1000)
		for i := range int64(3) {
			if got := decode(b[i*SectorSize:][:SectorSize], 42, 1000+i); got != v {
				t.Errorf("sector %d of %v decodes to %v", i, v, got)
			}
		}
		if v == zero {
			continue
		}
		if got := decode(b[:SectorSize], 42, 1001); got != mixed {
			t.Errorf("in another place it is %v", got)
		}
		if got := decode(b[:SectorSize], 43, 1000); got != mixed {
			t.Errorf("on another disk it is %v", got)
		}
	}
}

func TestEveryChangedByteIsNoticed(t *testing.T) {
	b := make([]byte, SectorSize)
	for _, v := range []value{zero, valueOf(3, 5)} {
		encode(b, 42, v, 7)
		for i := range b {
			b[i] ^= 0x10
			if got := decode(b, 42, 7); got != mixed {
				t.Errorf("%v with byte %d changed decodes to %v", v, i, got)
			}
			if describe(b, 42, 7) == "" {
				t.Error("no description")
			}
			b[i] ^= 0x10
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte{}, uint64(42), int64(7))
	seed := make([]byte, SectorSize)
	encode(seed, 42, valueOf(3, 5), 7)
	f.Add(seed, uint64(42), int64(7))
	f.Fuzz(func(t *testing.T, begin []byte, tag uint64, sector int64) {
		var b, again [SectorSize]byte
		copy(b[:], begin)
		v := decode(b[:], tag, sector)
		if v == mixed {
			if describe(b[:], tag, sector) == "" {
				t.Error("no description")
			}
			return
		}
		if encode(again[:], tag, v, sector); again != b {
			t.Errorf("%x decodes to %v, which is written otherwise", b, v)
		}
	})
}
