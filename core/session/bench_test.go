// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// BenchmarkReads keeps a number of reads in flight through a whole session, with
// the client in the same process.
//
//	go test -run '^$' -bench Reads ./core/session
func BenchmarkReads(b *testing.B) {
	for _, size := range []uint32{4096, 65536, mib} {
		for _, depth := range []int{1, 32} {
			b.Run(fmt.Sprintf("unix/%dKiB/depth=%d", size/1024, depth), func(b *testing.B) {
				near, far := socketpair(b, unix.SOCK_STREAM)
				benchReads(b, near, far, size, depth)
			})
		}
	}
	b.Run("tcp/4KiB/depth=32", func(b *testing.B) {
		near, far := tcpPair(b)
		benchReads(b, near, far, 4096, 32)
	})
}

func benchReads(b *testing.B, near, far net.Conn, size uint32, depth int) {
	d := newDisk(64 * mib)
	if err := d.Store.WriteAt(b.Context(), numbered(64*mib), 0, 0); err != nil {
		b.Fatal(err)
	}
	c, _ := transmitOver(b, near, far, open(b, d.Store), false)
	_ = c.SetDeadline(time.Time{})
	reply := make([]byte, nbd.SimpleReplySize+int(size))
	ask := func(n int) {
		var requests []byte
		for range n {
			c.cookies++
			off := c.cookies * uint64(size) % (64 * mib)
			requests = nbd.AppendRequest(requests, nbd.Request{Command: nbd.CmdRead, Cookie: c.cookies, Offset: off, Length: size})
		}
		if _, err := c.Write(requests); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(int64(size))
	b.ReportAllocs()
	b.ResetTimer()
	ask(min(depth, b.N))
	asked, owed := min(depth, b.N), 0
	for range b.N {
		if _, err := io.ReadFull(c.in, reply); err != nil {
			b.Fatal(err)
		}
		// Asks again for all that is answered once no more is at hand.
		if asked+owed < b.N {
			owed++
		}
		if owed > 0 && c.in.Buffered() < len(reply) {
			ask(owed)
			asked, owed = asked+owed, 0
		}
	}
}
