// SPDX-License-Identifier: GPL-3.0-or-later

package nbd

import (
	"bytes"
	"errors"
	"testing"
)

// The bytes are written out by hand from the protocol's text.
func TestGoldenOldstyleGreeting(t *testing.T) {
	golden := append(unhex(t, "4e42444d41474943 0000420281861253 0000000000012345 0000000d"), make([]byte, 124)...)
	if got := AppendOldstyleGreeting([]byte("x"), 0x12345, OldstyleFlags); !bytes.Equal(got, append([]byte("x"), golden...)) {
		t.Errorf("got %x", got)
	}
	size, flags, err := DecodeOldstyleGreeting(golden)
	if size != 0x12345 || flags != OldstyleFlags || err != nil {
		t.Errorf("got %d bytes, %v, %v", size, flags, err)
	}
	if len(golden) != OldstyleGreetingSize {
		t.Errorf("it has %d bytes", len(golden))
	}
}

func TestOldstyleGreetingsOfOthers(t *testing.T) {
	greeting := func(flags string) []byte {
		return append(unhex(t, "4e42444d41474943 0000420281861253 ffffffffffffffff"+flags), bytes.Repeat([]byte{7}, 124)...)
	}
	size, flags, err := DecodeOldstyleGreeting(append(greeting("8001016f"), "a request"...))
	if size != 1<<64-1 || flags != 0x16f || err != nil {
		t.Errorf("flags of a time to come: got %d bytes, %v, %v", size, flags, err)
	}
	if _, _, err := DecodeOldstyleGreeting(greeting("00000001")[:OldstyleGreetingSize-1]); !errors.Is(err, ErrShort) {
		t.Errorf("one byte too few: %v", err)
	}
	newstyle := append(AppendGreeting(nil, FlagFixedNewstyle), make([]byte, 200)...)
	if _, _, err := DecodeOldstyleGreeting(newstyle); !errors.Is(err, ErrMagic) {
		t.Errorf("newstyle: %v", err)
	}
}

func FuzzDecodeOldstyleGreeting(f *testing.F) {
	f.Add(AppendOldstyleGreeting(nil, 1<<40, OldstyleFlags))
	f.Add(AppendOldstyleGreeting(nil, 1<<63, 0xffff)[:151])
	f.Add(append(AppendGreeting(nil, 3), make([]byte, 134)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		size, flags, err := DecodeOldstyleGreeting(b)
		switch {
		case errors.Is(err, ErrShort) != (len(b) < OldstyleGreetingSize):
			t.Errorf("%d bytes: %v", len(b), err)
		case err == nil:
			if again := AppendOldstyleGreeting(nil, size, flags); !bytes.Equal(again[:24], b[:24]) || !bytes.Equal(again[26:28], b[26:28]) {
				t.Errorf("%x does not come back", b)
			}
			if _, err := DecodeGreeting(b); !errors.Is(err, ErrOldstyle) {
				t.Errorf("%x is taken for another kind: %v", b, err)
			}
		case !errors.Is(err, ErrMagic) && !errors.Is(err, ErrShort):
			t.Errorf("unexpected error %v", err)
		}
	})
}
