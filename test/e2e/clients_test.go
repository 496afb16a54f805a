// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// silent is a connection on which nobody speaks.
func (s *server) silent() net.Conn {
	s.t.Helper()
	conn, err := s.connect()
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// cutAfter waits until the server has ended a connection, and says how long that
// took.
func cutAfter(t *testing.T, conn net.Conn) time.Duration {
	t.Helper()
	begin := time.Now()
	if err := conn.SetReadDeadline(begin.Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("the server has not ended the connection after %v", patience)
	}
	return time.Since(begin)
}

func TestSilentConnectionsAreCut(t *testing.T) {
	t.Parallel()
	s := serve(t, "--file", sparseFile(t, 1<<20), "--max-clients", "50")
	var conns []net.Conn
	begin := time.Now()
	for i := range 50 {
		conn := s.silent()
		if i%2 == 0 { // a client that begins and then falls silent
			if _, err := conn.Write([]byte{0, 0, 0, 1, 'I', 'H', 'A', 'V'}); err != nil {
				t.Fatal(err)
			}
		}
		conns = append(conns, conn)
	}
	for i, conn := range conns {
		cutAfter(t, conn)
		if took := time.Since(begin); i == 0 && (took < 9*time.Second || took > 25*time.Second) {
			t.Errorf("a connection without a handshake was cut after %v, want 10 s", took)
		}
	}
	eventually(t, "all slots are free", func() bool { return s.status()["num_clients"] == "0" })
	s.read(t, 0, 10)
}

func TestMaxClientsTurnsTheNextOneAway(t *testing.T) {
	s := serve(t, "--file", sparseFile(t, 1<<20), "--max-clients", "2")
	first, second := s.silent(), s.silent()
	for _, conn := range []net.Conn{first, second} {
		if _, err := io.ReadFull(conn, make([]byte, 18)); err != nil { // the greeting
			t.Fatal(err)
		}
	}
	if took := cutAfter(t, s.silent()); took > 5*time.Second {
		t.Errorf("the third client was turned away after %v", took)
	}
	if r := run(t, nil, programs.flexnbd, s.command("read", 0, 10)...); r.status != 1 {
		t.Errorf("read as the third client: exit status %d, want 1\n%s", r.status, r.stderr)
	}
	_ = first.Close()
	eventually(t, "the slot is free", func() bool { return s.status()["num_clients"] == "1" })
	s.read(t, 0, 10)
	_ = second.Close()
}
