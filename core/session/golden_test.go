// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"encoding/binary"
	"testing"

	"github.com/flexnbd/flexnbd/core/export"
)

// The bytes below are written out by hand from the protocol's text.

func TestGoldenFixedNewstyle(t *testing.T) {
	c := connect(t, Config{Export: open(t, newDisk(0x12345))})
	c.want([]byte("NBDMAGIC" + "IHAVEOPT" + "\x00\x03"))
	c.say([]byte("\x00\x00\x00\x03"))

	const reply = "\x00\x03\xe8\x89\x04\x55\x65\xa9"
	c.say([]byte("IHAVEOPT\x00\x00\x00\x08\x00\x00\x00\x00")) // STRUCTURED_REPLY
	c.want([]byte(reply + "\x00\x00\x00\x08\x00\x00\x00\x01\x00\x00\x00\x00"))

	c.say([]byte("IHAVEOPT\x00\x00\x00\x03\x00\x00\x00\x00")) // LIST
	c.want([]byte(reply + "\x00\x00\x00\x03\x00\x00\x00\x02\x00\x00\x00\x04" + "\x00\x00\x00\x00"))
	c.want([]byte(reply + "\x00\x00\x00\x03\x00\x00\x00\x01\x00\x00\x00\x00"))

	c.say([]byte("IHAVEOPT\x00\x00\x00\x0a\x00\x00\x00\x1b" + // SET_META_CONTEXT
		"\x00\x00\x00\x00" + "\x00\x00\x00\x01" + "\x00\x00\x00\x0fbase:allocation"))
	c.want([]byte(reply + "\x00\x00\x00\x0a\x00\x00\x00\x04\x00\x00\x00\x13" + "\x00\x00\x00\x01base:allocation"))
	c.want([]byte(reply + "\x00\x00\x00\x0a\x00\x00\x00\x01\x00\x00\x00\x00"))

	c.say([]byte("IHAVEOPT\x00\x00\x00\x07\x00\x00\x00\x0a" + // GO
		"\x00\x00\x00\x00" + "\x00\x02" + "\x00\x03" + "\x00\x01"))
	c.want([]byte(reply + "\x00\x00\x00\x07\x00\x00\x00\x03\x00\x00\x00\x0c" + // EXPORT
		"\x00\x00" + "\x00\x00\x00\x00\x00\x01\x23\x45" + "\x0d\xed"))
	c.want([]byte(reply + "\x00\x00\x00\x07\x00\x00\x00\x03\x00\x00\x00\x02" + "\x00\x01")) // NAME
	c.want([]byte(reply + "\x00\x00\x00\x07\x00\x00\x00\x03\x00\x00\x00\x0e" +              // BLOCK_SIZE
		"\x00\x03" + "\x00\x00\x00\x01" + "\x00\x00\x10\x00" + "\x40\x00\x00\x00"))
	c.want([]byte(reply + "\x00\x00\x00\x07\x00\x00\x00\x01\x00\x00\x00\x00"))

	c.say([]byte("\x25\x60\x95\x13" + "\x00\x00\x00\x03" + "COOKIE!!" + // FLUSH
		"\x00\x00\x00\x00\x00\x00\x00\x00" + "\x00\x00\x00\x00"))
	c.want([]byte("\x67\x44\x66\x98\x00\x00\x00\x00COOKIE!!"))
	c.say([]byte("\x25\x60\x95\x13" + "\x00\x00\x00\x00" + "cookie??" + // READ past the end
		"\xff\xff\xff\xff\xff\xff\xff\xff" + "\x00\x00\x00\x02"))
	c.want([]byte("\x66\x8e\x33\xef" + "\x00\x01" + "\x80\x01" + "cookie??"))
	length := c.take(4)
	c.take(int(binary.BigEndian.Uint32(length)))
	c.leave()
}

func TestChecklist05GoldenExportName(t *testing.T) {
	for _, test := range []struct {
		name, flags string
		padding     int
		options     export.Options
		want        string
	}{
		{"padded", "\x00\x00\x00\x01", 124, export.Options{}, "\x0d\x6d"},
		{"not padded", "\x00\x00\x00\x03", 0, export.Options{}, "\x0d\x6d"},
		{"not fixed", "\x00\x00\x00\x00", 124, export.Options{}, "\x0d\x6d"},
		{"not fixed, not padded", "\x00\x00\x00\x02", 0, export.Options{}, "\x0d\x6d"},
		{"read-only", "\x00\x00\x00\x03", 0, export.Options{ReadOnly: true}, "\x05\x0f"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := connect(t, Config{Export: openWith(t, newDisk(0x12345), test.options)})
			c.want([]byte("NBDMAGIC" + "IHAVEOPT" + "\x00\x03"))
			c.say([]byte(test.flags))
			c.say([]byte("IHAVEOPT\x00\x00\x00\x01\x00\x00\x00\x00"))
			c.want([]byte("\x00\x00\x00\x00\x00\x01\x23\x45" + test.want))
			c.want(make([]byte, test.padding))
			c.say([]byte("\x25\x60\x95\x13" + "\x00\x00\x00\x03" + "COOKIE!!" +
				"\x00\x00\x00\x00\x00\x00\x00\x00" + "\x00\x00\x00\x00"))
			c.want([]byte("\x67\x44\x66\x98\x00\x00\x00\x00COOKIE!!"))
			c.leave()
		})
	}
}
