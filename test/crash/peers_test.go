// SPDX-License-Identifier: GPL-3.0-or-later

package crash

import (
	"io"
	"net"
	"testing"

	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/core/owner"
)

// ancient plays a source of flexnbd 0.x: it sends length bytes of its disk.
func (s *scenario) ancient(length int64) net.Conn {
	s.t.Helper()
	conn, err := net.Dial("tcp", s.b.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	if size, err := oldstyleHello(conn); err != nil || size != uint64(s.disk.Size()) {
		s.t.Fatalf("the greeting says %d bytes, %v", size, err)
	}
	message := nbd.AppendRequest(nil, nbd.Request{Command: nbd.CmdWrite, Cookie: 1, Length: uint32(length)})
	s.send(conn, append(message, make([]byte, length)...))
	return conn
}

// send sends a request and waits for its answer.
func (s *scenario) send(conn net.Conn, message []byte) {
	s.t.Helper()
	if _, err := conn.Write(message); err != nil {
		s.t.Fatal(err)
	}
	var head [nbd.SimpleReplySize]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		s.t.Fatal(err)
	}
	if reply, err := nbd.DecodeSimpleReply(head[:]); err != nil || reply.Errno != 0 {
		s.t.Fatalf("%+v, %v", reply, err)
	}
}

func oldstyleSourceLost(t *testing.T) {
	waits := func(t *testing.T, s *scenario) {
		t.Helper()
		s.b.says("arrival_from", "127.0.0.1")
		s.nobodyAt(s.b.addr)
	}
	gone := func(t *testing.T, s *scenario) {
		t.Helper()
		if !soon(func() bool { status, _ := s.b.status(); return status["arrival_from"] == "" }) {
			t.Fatal("the destination does not notice that the source is gone")
		}
		if v := s.b.records().Verdict(); v != owner.VerdictIncomplete {
			t.Errorf("by its records the destination is %v", v)
		}
		if status, _ := s.b.status(); status["has_control"] != "false" || status["clients_allowed"] != "false" {
			t.Errorf("the status is %v", status)
		}
		if err := s.end(); err != nil {
			t.Error(err)
		}
	}
	t.Run("without a goodbye", func(t *testing.T) {
		t.Parallel()
		s := newScenario(t, setup{})
		s.b.start("listen", nil, "--handshake", "oldstyle")
		conn := s.ancient(s.disk.Size())
		s.send(conn, nbd.AppendRequest(nil, nbd.EntrustRequest(2)))
		waits(t, s)
		_ = conn.Close()
		gone(t, s)
	})
	t.Run("with a part", func(t *testing.T) {
		t.Parallel()
		s := newScenario(t, setup{})
		s.b.start("listen", nil, "--handshake", "oldstyle")
		conn := s.ancient(s.disk.Size() / 2)
		waits(t, s)
		if _, err := conn.Write(nbd.AppendRequest(nil, nbd.Request{Command: nbd.CmdDisc})); err != nil {
			t.Fatal(err)
		}
		_ = conn.Close()
		gone(t, s)
	})
}

// oldstylePeer plays a destination of flexnbd 0.x for one connection, and tells
// whether that ended with a goodbye.
func oldstylePeer(size int64, goodbye chan<- bool) func(net.Conn) {
	return func(conn net.Conn) {
		said := false
		defer func() { goodbye <- said }()
		_, _ = conn.Write(nbd.AppendOldstyleGreeting(nil, uint64(size), nbd.FlagHasFlags))
		for !said {
			var head [nbd.RequestSize]byte
			if _, err := io.ReadFull(conn, head[:]); err != nil {
				return
			}
			r, err := nbd.DecodeRequest(head[:])
			if err != nil {
				return
			}
			if r.Command == nbd.CmdWrite {
				_, _ = io.CopyN(io.Discard, conn, int64(r.Length))
			}
			if said = r.Command == nbd.CmdDisc; !said {
				_, _ = conn.Write(nbd.AppendSimpleReply(nil, 0, r.Cookie))
			}
		}
	}
}

// lost is a disk that was given away, and that nobody serves until an operator has
// looked: the source says so again and again.
func (s *scenario) lost() {
	s.t.Helper()
	if m := s.a.records().Migrated; m == nil || !m.Unconfirmed {
		s.t.Errorf("the source's record is %+v", m)
	}
	s.nobodyAt(s.a.addr)
	s.a.exits(3, "serve")
	s.a.exits(3, "serve")
	_ = s.load.Stop(within(s.t, 1))
	if err := s.history(s.a); err != nil {
		s.t.Error(err) // all of it is still there
	}
	if err := s.end(); err != nil {
		s.t.Error(err)
	}
}

// only lets clients know the source alone.
func (s *scenario) only() *scenario {
	s.options.Servers = s.options.Servers[:1]
	return s
}

// The source dies between its record and its goodbye.
func oldstyleGoodbyeLost(t *testing.T) {
	s := newScenario(t, setup{}).only()
	s.a.serve(kills("source-committed"))
	s.startLoad()
	said := make(chan bool, 1)
	player(t, s.b.addr, oldstylePeer(s.disk.Size(), said))
	s.migrate(order{})
	s.a.dies()
	if <-said {
		t.Error("the destination has heard a goodbye")
	}
	s.lost()
}

func unconfirmedSourceKilled(t *testing.T) {
	t.Run("source-before-rename", func(t *testing.T) {
		t.Parallel()
		s := newScenario(t, setup{}).only()
		s.mayNotice = true
		s.nbdkit()
		s.a.serve(kills("source-before-rename"))
		s.startLoad()
		s.migrate(order{more: []string{"unconfirmed"}})
		s.a.dies()
		s.a.serve()
		s.servedBy(s.a)
		s.stopLoad()
		if err := s.history(s.a); err != nil {
			t.Error(err)
		}
		if err := s.end(); err != nil {
			t.Error(err)
		}
	})
	t.Run("source-renamed", func(t *testing.T) {
		t.Parallel()
		s := newScenario(t, setup{}).only()
		s.nbdkit()
		s.a.serve(kills("source-renamed"))
		s.startLoad()
		s.migrate(order{more: []string{"unconfirmed"}})
		s.a.dies()
		s.lost()
	})
}
