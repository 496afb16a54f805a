// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/sdk/fdstore"
	"github.com/flexnbd/flexnbd/sdk/rangelock"
	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/wire"
	"github.com/flexnbd/flexnbd/sdk/wire/filelane"
	"github.com/flexnbd/flexnbd/sdk/wire/wiretest"
)

// lending is a disk in a file whose descriptor the session may use.
type lending struct {
	store.Store
	file *os.File
	lent *wire.Lent
	lane *filelane.Lane
}

// NewQueue implements [wire.Queuer].
func (l *lending) NewQueue(ctx context.Context, sink wire.Sink) wire.Queue {
	return l.lane.NewQueue(wire.NewQueue(ctx, l.Store, sink), sink)
}

func newLending(t testing.TB, content []byte) *lending {
	t.Helper()
	path := filepath.Join(wiretest.FolderOnDisk(t), "disk.img")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	open := func() *os.File {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	f := open()
	s, err := fdstore.New(f, fdstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	l := &lending{Store: s, file: f, lent: wire.NewLent(open(), nil, nil), lane: filelane.New(&rangelock.Lock{})}
	l.lane.Use(l.lent)
	t.Cleanup(l.lent.End)
	return l
}

// TestLentReadsAndWritesMix is a client that does everything at once, with requests
// of all lengths, on every kind of socket.
func TestLentReadsAndWritesMix(t *testing.T) {
	both(t, func(t *testing.T, structured bool) {
		for name, sockets := range map[string]func() (near, far net.Conn){
			"unix": func() (net.Conn, net.Conn) { return socketpair(t, unix.SOCK_STREAM) },
			"tcp":  func() (net.Conn, net.Conn) { return tcpPair(t) },
		} {
			content := numbered(8 * mib)
			near, far := sockets()
			c, _ := transmitOver(t, near, far, open(t, newLending(t, content)), structured)
			random := rand.New(rand.NewPCG(1, 2))
			want := map[uint64][]byte{}
			collect := func() {
				for cookie, a := range c.all(len(want)) {
					if a.errno != 0 || !bytes.Equal(a.data, want[cookie]) {
						t.Fatalf("%s: a read of %d bytes got %d others, errno %v", name, len(want[cookie]), len(a.data), a.errno)
					}
				}
				clear(want)
			}
			for i := range 100 {
				length := []int{1, 511, 4096, 32 << 10, 64<<10 + 1, 256 << 10, mib, 3 * mib}[random.IntN(8)]
				off := random.IntN(len(content) - length)
				if i%4 == 0 { // a write waits for all reads
					collect()
					fresh := numbered(length + i)[i:]
					copy(content[off:], fresh)
					c.must(nbd.CmdWrite, 0, uint64(off), uint32(length), fresh)
					continue
				}
				want[c.send(nbd.CmdRead, 0, uint64(off), uint32(length))] = bytes.Clone(content[off : off+length])
			}
			collect()
			c.leave()
		}
	})
}

// TestSlowClientDoesNotKeepADescriptor has a client ask for much and take nothing:
// the plugin gets its descriptor back all the same, and the client its data.
func TestSlowClientDoesNotKeepADescriptor(t *testing.T) {
	both(t, func(t *testing.T, structured bool) {
		content := numbered(8 * mib)
		l := newLending(t, content)
		near, far := tcpPair(t)
		c, q := transmitOver(t, near, far, open(t, l), structured)
		_ = far.SetWriteBuffer(64 << 10)
		cookies := map[uint64]int{}
		for i := range 4 {
			cookies[c.send(nbd.CmdRead, 0, uint64(i)*mib, mib)] = i
		}
		eventually(t, "all reads complete", func() bool { return q.handled.Load() == 4 })
		l.lane.Use(nil)
		l.lent.End()
		select {
		case <-l.lent.Ended():
		case <-time.After(patience):
			t.Fatal("the descriptor is still in use")
		}
		// What is on its way stays as it was, whatever becomes of the file.
		if err := unix.Fallocate(int(l.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 8*mib); err != nil {
			t.Fatal(err)
		}
		for cookie, a := range c.all(4) {
			if !bytes.Equal(a.data, content[cookies[cookie]*mib:][:mib]) {
				t.Errorf("read %d got other bytes", cookies[cookie])
			}
		}
		c.must(nbd.CmdRead, 0, 0, 4096) // the limit on that wait is none on this one
		c.leave()
	})
}

// TestLentBytesThatVanishEndTheConnection truncates the file when the reply has
// begun: there is no way to take that back.
func TestLentBytesThatVanishEndTheConnection(t *testing.T) {
	l := newLending(t, numbered(8*mib))
	near, far := tcpPair(t)
	_ = near.SetReadBuffer(64 << 10)
	_ = far.SetWriteBuffer(64 << 10)
	c, _ := transmitOver(t, near, far, open(t, l), false)
	c.send(nbd.CmdRead, 0, 0, mib)
	if _, err := c.in.Peek(1); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(l.file.Name(), 4096); err != nil {
		t.Fatal(err)
	}
	n := 0
	for b := make([]byte, 64<<10); ; {
		got, err := c.in.Read(b)
		if n += got; err != nil {
			break
		}
	}
	if n >= nbd.SimpleReplySize+mib {
		t.Errorf("the client got %d bytes, as if nothing had happened", n)
	}
	_ = c.Close()
	c.wantResult(false)
}

// TestPushLeavesAFullSocketToTheWriter checks that whoever completes requests never
// waits for the client.
func TestPushLeavesAFullSocketToTheWriter(t *testing.T) {
	near, far := socketpair(t, unix.SOCK_STREAM)
	defer near.Close()
	defer far.Close()
	l := newLending(t, numbered(mib))
	sent := 0
	o := newOutbox(newSocket(far), func(*reply) { sent++ }, func(err error) { t.Error(err) })
	const n = 8
	var want []byte
	for i := range n {
		r := message(i)
		if i%2 == 0 {
			l.lent.Share()
			r = reply{lent: l.lent, lentLength: mib, payload: &wire.Payload{Bytes: make([]byte, mib)}}
			r.setHead(nbd.AppendSimpleReply(r.head[:0], 0, uint64(i)))
			want = append(append(want, r.head[:r.headLen]...), numbered(mib)...)
		} else {
			want = append(append(want, r.head[:r.headLen]...), r.body...)
		}
		o.put(r)
		o.push() // returns, or the test hangs: nobody reads
	}
	done := make(chan struct{})
	go func() { defer close(done); o.write() }()
	got := make([]byte, len(want))
	_ = near.SetReadDeadline(time.Now().Add(patience))
	for rest := got; len(rest) > 0; {
		k, err := near.Read(rest)
		if err != nil {
			t.Fatalf("%v, %d bytes missing", err, len(rest))
		}
		rest = rest[k:]
	}
	o.close()
	receive(t, done)
	if !bytes.Equal(got, want) || sent != n {
		t.Errorf("other bytes, or %d of %d replies sent", sent, n)
	}
}
