// SPDX-License-Identifier: GPL-3.0-or-later

package client

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/flexnbd/flexnbd/core/nbd"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// script is a server whose every byte a test decides.
type script struct {
	t *testing.T
	net.Conn
}

// want reads as many bytes as b has and compares them.
func (s *script) want(b []byte) {
	s.t.Helper()
	got := make([]byte, len(b))
	if _, err := io.ReadFull(s, got); err != nil {
		s.t.Errorf("server: awaiting %x: %v", b, err)
	} else if !bytes.Equal(got, b) {
		s.t.Errorf("server: got %x, want %x", got, b)
	}
}

func (s *script) say(b []byte) {
	s.t.Helper()
	if _, err := s.Write(b); err != nil {
		s.t.Errorf("server: sending %x: %v", b, err)
	}
}

// tell is say to a client that may have hung up in the middle.
func (s *script) tell(b []byte) { _, _ = s.Write(b) }

// skip takes n bytes, or fewer from a client that hangs up, without a look at
// them.
func (s *script) skip(n int64) { _, _ = io.CopyN(io.Discard, s, n) }

// drain takes everything until the client hangs up.
func (s *script) drain() { _, _ = io.Copy(io.Discard, s) }

// wantEnd checks that the client hangs up without another word.
func (s *script) wantEnd() {
	s.t.Helper()
	if rest, err := io.ReadAll(s); err != nil || len(rest) > 0 {
		s.t.Errorf("server: got %x, %v where the client should have hung up", rest, err)
	}
}

const testFlags = nbd.FlagHasFlags | nbd.FlagSendFlush | nbd.FlagSendFUA

// open plays a whole handshake for export "disk" of size bytes.
func (s *script) open(size uint64, flags nbd.TransmissionFlags, sizes ...nbd.BlockSizes) {
	s.t.Helper()
	s.greet()
	s.say(nbd.AppendOptionReply(nil, nbd.OptGo, nbd.RepInfo, nbd.AppendInfoExport(nil, size, flags)))
	for _, bs := range sizes {
		s.say(nbd.AppendOptionReply(nil, nbd.OptGo, nbd.RepInfo, nbd.AppendInfoBlockSize(nil, bs)))
	}
	s.say(nbd.AppendOptionReply(nil, nbd.OptGo, nbd.RepAck, nil))
}

// greet plays the handshake up to the client's OPT_GO for export "disk".
func (s *script) greet() {
	s.t.Helper()
	s.say([]byte("NBDMAGICIHAVEOPT\x00\x03"))
	s.want([]byte{0, 0, 0, 3})
	s.want([]byte("IHAVEOPT\x00\x00\x00\x07\x00\x00\x00\x0c\x00\x00\x00\x04disk\x00\x01\x00\x03"))
}

var (
	goodbye  = []byte("\x25\x60\x95\x13\x00\x00\x00\x02") // how a DISC begins
	abortOpt = []byte("IHAVEOPT\x00\x00\x00\x02\x00\x00\x00\x00")
)

// patience bounds every test's server, so that a hung client fails the test.
const patience = 20 * time.Second

// play runs a server on one end of a pipe and returns the other. The pipe has
// no buffer: each side waits until the other takes what it says.
func play(t *testing.T, run func(*script)) net.Conn {
	t.Helper()
	near, far := net.Pipe()
	return start(t, near, far, run)
}

// playTCP is play over a loopback connection.
func playTCP(t *testing.T, run func(*script)) net.Conn {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	near, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return start(t, near, far, run)
}

func start(t *testing.T, near, far net.Conn, run func(*script)) net.Conn {
	t.Helper()
	done := make(chan struct{})
	if err := far.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(done)
		defer far.Close()
		run(&script{t, far})
	}()
	t.Cleanup(func() {
		near.Close()
		<-done
	})
	return near
}

// connect opens export "disk" of a script and fails the test if that fails.
func connect(t *testing.T, conn net.Conn) *Client {
	t.Helper()
	c, err := Connect(t.Context(), conn, Options{Export: "disk"})
	if err != nil {
		t.Fatal(err)
	}
	return c
}
