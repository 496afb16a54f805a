// SPDX-License-Identifier: GPL-3.0-or-later

package client

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// canned is a connection whose server has said everything already and has hung
// up behind it, and takes whatever the client says.
type canned struct{ io.Reader }

func (canned) Write(b []byte) (int, error)      { return len(b), nil }
func (canned) Close() error                     { return nil }
func (canned) LocalAddr() net.Addr              { return nil }
func (canned) RemoteAddr() net.Addr             { return nil }
func (canned) SetDeadline(time.Time) error      { return nil }
func (canned) SetReadDeadline(time.Time) error  { return nil }
func (canned) SetWriteDeadline(time.Time) error { return nil }

// sessions are everything a server says until a READ of 16 bytes is answered.
func sessions() map[string][]byte {
	greeting := func(flags nbd.HandshakeFlags) []byte { return nbd.AppendGreeting(nil, flags) }
	unsup := nbd.AppendOptionError(nil, nbd.OptGo, nbd.RepErrUnsup, "unknown")
	read := append(nbd.AppendSimpleReply(nil, 0, 1), pattern(16)...)
	export := func(noZeroes bool) []byte { return nbd.AppendExportNameReply(nil, 4096, testFlags, noZeroes) }
	var info []byte
	for _, data := range [][]byte{
		nbd.AppendInfoBlockSize(nil, nbd.BlockSizes{Minimum: 1, Preferred: 4096, MaxPayload: 1 << 20}),
		nbd.AppendInfoDescription(nil, "a disk"),
		nbd.AppendInfoExport(nil, 4096, testFlags),
	} {
		info = nbd.AppendOptionReply(info, nbd.OptGo, nbd.RepInfo, data)
	}
	ack := nbd.AppendOptionReply(nil, nbd.OptGo, nbd.RepAck, nil)
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	return map[string][]byte{
		"GO":                     join(greeting(3), info, ack, read),
		"EXPORT_NAME":            join(greeting(3), unsup, export(true), read),
		"EXPORT_NAME and zeroes": join(greeting(1), unsup, export(false), read),
		"plain newstyle":         join(greeting(0), export(false), read),
		"oldstyle":               join(nbd.AppendOldstyleGreeting(nil, 4096, testFlags), read),
	}
}

// readAll connects over conn and reads 16 bytes.
func readAll(t *testing.T, conn net.Conn) ([]byte, error) {
	c, err := Connect(t.Context(), conn, Options{})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	var got bytes.Buffer
	err = c.ReadTo(t.Context(), &got, 0, 16)
	return got.Bytes(), err
}

func TestServerThatStopsAfterAnyByteIsAClearError(t *testing.T) {
	for name, whole := range sessions() {
		for k := range whole {
			got, err := readAll(t, canned{bytes.NewReader(whole[:k])})
			if !errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(err.Error(), "the server closed the connection") {
				t.Errorf("%s, %d of %d bytes: got %v", name, k, len(whole), err)
			}
			if !bytes.HasPrefix(pattern(16), got) {
				t.Errorf("%s, %d of %d bytes: read %x", name, k, len(whole), got)
			}
		}
		if got, err := readAll(t, canned{bytes.NewReader(whole)}); err != nil || !bytes.Equal(got, pattern(16)) {
			t.Errorf("%s: got %x, %v", name, got, err)
		}
	}
}

func TestServerThatHangsUpAfterAnyByteIsAnErrorOverTCP(t *testing.T) {
	whole := sessions()["GO"]
	for k := range whole {
		_, err := readAll(t, playTCP(t, func(s *script) {
			s.say(whole[:k])
			_ = s.Conn.(*net.TCPConn).SetLinger(0) // a reset, for what the client still says
		}))
		if err == nil {
			t.Errorf("%d of %d bytes: no error", k, len(whole))
		}
	}
}

func TestAnyFlippedBitIsSurvived(t *testing.T) {
	for _, whole := range sessions() {
		for i := range whole {
			for bit := range 8 {
				b := bytes.Clone(whole)
				b[i] ^= 1 << bit
				// Most are errors; some change only a size or a text. None may
				// hang, panic or give bytes that were not in the reply.
				if got, err := readAll(t, canned{bytes.NewReader(b)}); err == nil && len(got) != 16 {
					t.Errorf("bit %d of byte %d: read %x without an error", bit, i, got)
				}
			}
		}
	}
}

func FuzzServer(f *testing.F) {
	for _, whole := range sessions() {
		f.Add(whole)
	}
	f.Add([]byte("NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53"))
	f.Add([]byte("SSH-2.0-OpenSSH\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Connect(t.Context(), canned{bytes.NewReader(b)}, Options{})
		if err != nil {
			return
		}
		var got bytes.Buffer
		err = c.ReadTo(t.Context(), &got, 0, 16)
		if got.Len() > 16 || (err == nil && got.Len() != 16) || !bytes.Contains(b, got.Bytes()) {
			t.Errorf("read %x, %v", &got, err)
		}
		_ = c.WriteFrom(t.Context(), bytes.NewReader(make([]byte, 16)), 0, 16)
		_ = c.Flush(t.Context())
		_ = c.Disconnect()
	})
}
