// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"os"
	"testing"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// Clients that send requests and read no replies hold up nobody else, and do not
// make the server keep their replies in memory. In the end each gets all of them.
func TestClientsThatDoNotReadCostBoundedMemory(t *testing.T) {
	const clients, requests, length = 4, 16, 8 << 20 // 512 MiB of replies
	const limit = 200 << 20
	onEachBackendOnce(t, func(t *testing.T, b setting) {
		s := b.serve(t, length)
		s.write(t, randomBytes(1, 1<<20), 0)
		var conns []net.Conn
		for range clients {
			conn := s.transmission()
			var batch []byte
			for cookie := range uint64(requests) {
				batch = nbd.AppendRequest(batch, nbd.Request{Command: nbd.CmdRead, Cookie: cookie, Offset: 0, Length: length})
			}
			if _, err := conn.Write(batch); err != nil {
				t.Fatal(err)
			}
			conns = append(conns, conn)
		}
		want := randomBytes(1, 1<<20)
		if got := s.read(t, 0, len(want)); string(got) != string(want) {
			t.Error("another client reads something else than was written")
		}
		for _, conn := range conns {
			takeReplies(t, conn, requests, length)
		}
		if os.Getenv("FLEXNBD_E2E_RACE") == "1" {
			return // nothing is known about the memory then
		}
		if peak := peakMemory(t, s.cmd.Process.Pid); peak > limit {
			t.Errorf("the server has had %d MiB of memory at a time, want at most %d", peak>>20, limit>>20)
		}
	})
}

// transmission is a connection in the transmission phase, with simple replies.
func (s *server) transmission() net.Conn {
	s.t.Helper()
	conn := s.silent()
	enterTransmission(s.t, conn)
	return conn
}

// enterTransmission does the handshake of transmission.
func enterTransmission(t *testing.T, conn net.Conn) {
	t.Helper()
	hello := nbd.AppendClientFlags(nil, nbd.FlagClientFixedNewstyle|nbd.FlagClientNoZeroes)
	hello = nbd.AppendOption(hello, nbd.OptExportName, nil)
	if _, err := conn.Write(hello); err != nil {
		t.Fatal(err)
	}
	const greeting, export = 18, 10 // bytes
	if _, err := io.ReadFull(conn, make([]byte, greeting+export)); err != nil {
		t.Fatal(err)
	}
}

// answer reads the simple reply to a request, the only one under way.
func answer(t *testing.T, conn net.Conn, request nbd.Request) (nbd.Errno, []byte) {
	t.Helper()
	header := make([]byte, nbd.SimpleReplySize)
	if _, err := io.ReadFull(conn, header); err != nil {
		t.Fatalf("%v: no reply: %v", request.Command, err)
	}
	reply, err := nbd.DecodeSimpleReply(header)
	if err != nil || reply.Cookie != request.Cookie {
		t.Fatalf("%v: the reply is %+v, %v", request.Command, reply, err)
	}
	var data []byte
	if request.Command == nbd.CmdRead && reply.Errno == 0 {
		data = make([]byte, request.Length)
		if _, err := io.ReadFull(conn, data); err != nil {
			t.Fatalf("%v: within the data: %v", request.Command, err)
		}
	}
	return reply.Errno, data
}

// takeReplies reads the simple replies to n reads, which may come in any order.
func takeReplies(t *testing.T, conn net.Conn, n int, length int64) {
	t.Helper()
	r := bufio.NewReaderSize(conn, 1<<20)
	answered := map[uint64]bool{}
	for range n {
		var reply struct {
			Magic, Errno uint32
			Cookie       uint64
		}
		if err := binary.Read(r, binary.BigEndian, &reply); err != nil {
			t.Fatalf("after %d of %d replies: %v", len(answered), n, err)
		}
		const simpleReply = 0x67446698
		if reply.Magic != simpleReply || reply.Errno != 0 || answered[reply.Cookie] || reply.Cookie >= uint64(n) {
			t.Fatalf("after %d of %d replies: %+v", len(answered), n, reply)
		}
		answered[reply.Cookie] = true
		if _, err := io.CopyN(io.Discard, r, length); err != nil {
			t.Fatalf("in reply %d of %d: %v", len(answered), n, err)
		}
	}
}
