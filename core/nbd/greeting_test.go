// SPDX-License-Identifier: GPL-3.0-or-later

package nbd

import (
	"bytes"
	"errors"
	"testing"
)

func TestGreetingTellsServersApart(t *testing.T) {
	for _, c := range []struct {
		name  string
		b     []byte
		flags HandshakeFlags
		err   error
	}{
		{"newstyle", unhex(t, "4e42444d41474943 49484156454f5054 0001"), FlagFixedNewstyle, nil},
		{"flags of a time to come", unhex(t, "4e42444d41474943 49484156454f5054 8003"), 0x8003, nil},
		{"oldstyle", unhex(t, "4e42444d41474943 0000420281861253 0000"), 0, ErrOldstyle},
		{"oldstyle, as soon as it shows", unhex(t, "4e42444d41474943 0000420281861253"), 0, ErrOldstyle},
		{"ssh", []byte("SSH-2.0-OpenSSH_9.2p1\r\n"), 0, ErrMagic},
		{"one wrong byte", []byte("X"), 0, ErrMagic},
		{"neither style", []byte("NBDMAGIC\x01"), 0, ErrMagic},
		{"nothing yet", nil, 0, ErrShort},
	} {
		flags, err := DecodeGreeting(c.b)
		if flags != c.flags || !errors.Is(err, c.err) {
			t.Errorf("%s: got %v, %v; want %v, %v", c.name, flags, err, c.flags, c.err)
		}
	}
}

func TestClientFlagsNotOfferedAreRefused(t *testing.T) {
	for _, c := range []struct {
		sent    ClientFlags
		offered HandshakeFlags
		ok      bool
	}{
		{0, 0, true},
		{0, FlagFixedNewstyle | FlagNoZeroes, true},
		{FlagClientFixedNewstyle | FlagClientNoZeroes, FlagFixedNewstyle | FlagNoZeroes, true},
		{FlagClientNoZeroes, FlagFixedNewstyle, false},
		{FlagClientFixedNewstyle, 0, false},
		{1 << 2, FlagFixedNewstyle | FlagNoZeroes, false},
		{1 << 2, 1<<2 | FlagFixedNewstyle, false},
		{1 << 31, 0xffff, false},
	} {
		flags, err := DecodeClientFlags(AppendClientFlags(nil, c.sent), c.offered)
		if flags != c.sent || (err == nil) != c.ok || (!c.ok && !errors.Is(err, ErrMalformed)) {
			t.Errorf("flags %#x of %#x: got %#x, %v", c.sent, c.offered, flags, err)
		}
	}
}

func FuzzDecodeGreeting(f *testing.F) {
	f.Add(AppendGreeting(nil, FlagFixedNewstyle))
	f.Add([]byte("NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53"))
	f.Add([]byte("220 mail ESMTP\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		flags, err := DecodeGreeting(b)
		switch {
		case err == nil:
			if !bytes.Equal(AppendGreeting(nil, flags), b[:GreetingSize]) {
				t.Errorf("%x does not come back", b)
			}
		case errors.Is(err, ErrShort):
			if len(b) >= GreetingSize {
				t.Errorf("%d bytes are said to be too few", len(b))
			}
		case errors.Is(err, ErrMagic):
			// More bytes must not change the verdict.
			if _, again := DecodeGreeting(append(bytes.Clone(b), 0)); !errors.Is(again, ErrMagic) {
				t.Errorf("%x: %v, then %v", b, err, again)
			}
		case errors.Is(err, ErrOldstyle):
		default:
			t.Errorf("unexpected error %v", err)
		}
	})
}

func FuzzDecodeClientFlags(f *testing.F) {
	f.Add([]byte{0, 0, 0, 3}, uint16(3))
	f.Add([]byte{0, 0, 0, 4}, uint16(7))
	f.Add([]byte{0, 0}, uint16(0))
	f.Fuzz(func(t *testing.T, b []byte, offered uint16) {
		flags, err := DecodeClientFlags(b, HandshakeFlags(offered))
		if err == nil && (flags&^3 != 0 || uint32(flags)&^uint32(offered) != 0 ||
			!bytes.Equal(AppendClientFlags(nil, flags), b[:ClientFlagsSize])) {
			t.Errorf("%x of %#x gives %#x", b, offered, flags)
		}
	})
}
