// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/core/export"
	"github.com/flexnbd/flexnbd/core/nbd"
)

// patience bounds whatever a test waits for, so that a hung session fails it.
const patience = 60 * time.Second

// client is a client whose every byte a test decides.
type client struct {
	t testing.TB
	net.Conn
	in   *bufio.Reader
	done chan error // what Serve returned

	structured bool
	cookies    uint64
	pending    map[uint64]nbd.Request
}

// connect starts a session with a client that has said nothing.
func connect(t testing.TB, config Config) *client {
	return connectWith(t, context.Background(), config)
}

func connectWith(t testing.TB, ctx context.Context, config Config) *client {
	t.Helper()
	near, far := socketpair(t, unix.SOCK_STREAM)
	return connectOver(t, ctx, near, far, config)
}

func connectOver(t testing.TB, ctx context.Context, near, far net.Conn, config Config) *client {
	t.Helper()
	if config.Log == nil {
		config.Log = hclog.NewNullLogger()
	}
	return run(t, near, func() error { return Serve(ctx, far, config) })
}

// run runs the server's side and makes the client for the other.
func run(t testing.TB, near net.Conn, serve func() error) *client {
	c := &client{t: t, Conn: near, in: bufio.NewReaderSize(near, 128<<10), done: make(chan error, 1), pending: map[uint64]nbd.Request{}}
	_ = near.SetDeadline(time.Now().Add(patience))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.done <- serve()
	}()
	t.Cleanup(func() {
		_ = near.Close()
		<-ended
	})
	return c
}

// socketpair returns two connected Unix sockets.
func socketpair(t testing.TB, kind int) (near, far *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socketpair")
		conn, err := net.FileConn(f)
		_ = f.Close()
		if err != nil {
			t.Fatal(err)
		}
		conns[i] = conn.(*net.UnixConn)
	}
	return conns[0], conns[1]
}

// tcpPair returns two ends of a loopback connection.
func tcpPair(t testing.TB) (near, far *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return a.(*net.TCPConn), b.(*net.TCPConn)
}

// say sends bytes.
func (c *client) say(parts ...[]byte) {
	c.t.Helper()
	if _, err := c.Write(bytes.Join(parts, nil)); err != nil {
		c.t.Fatalf("sending: %v", err)
	}
}

// tell is say to a session that may have hung up.
func (c *client) tell(b []byte) { _, _ = c.Write(b) }

// take receives n bytes.
func (c *client) take(n int) []byte {
	c.t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(c.in, b); err != nil {
		c.t.Fatalf("awaiting %d bytes: %v", n, err)
	}
	return b
}

func (c *client) want(b []byte) {
	c.t.Helper()
	if got := c.take(len(b)); !bytes.Equal(got, b) {
		c.t.Fatalf("got  %x\nwant %x", got, b)
	}
}

// wantEnd checks that the session hangs up without another word.
func (c *client) wantEnd() {
	c.t.Helper()
	if rest, err := io.ReadAll(c.in); err != nil || len(rest) > 0 {
		c.t.Fatalf("got %x, %v where the session should have hung up", rest[:min(len(rest), 64)], err)
	}
}

// result returns what Serve returned.
func (c *client) result() error {
	c.t.Helper()
	select {
	case err := <-c.done:
		return err
	case <-time.After(patience):
		c.t.Fatal("the session does not end")
		return nil
	}
}

// wantResult checks that the session ends by the rules, or not.
func (c *client) wantResult(clean bool) {
	c.t.Helper()
	if err := c.result(); (err == nil) != clean {
		c.t.Fatalf("Serve returned %v, want an error: %v", err, !clean)
	}
}

const fixedNoZeroes = nbd.FlagClientFixedNewstyle | nbd.FlagClientNoZeroes

// greet plays the greeting.
func (c *client) greet(flags nbd.ClientFlags) {
	c.t.Helper()
	c.want([]byte("NBDMAGICIHAVEOPT\x00\x03"))
	c.say(nbd.AppendClientFlags(nil, flags))
}

// option sends an option.
func (c *client) option(opt nbd.Option, data []byte) {
	c.t.Helper()
	c.say(nbd.AppendOption(nil, opt, data))
}

// reply receives one reply to an option.
func (c *client) reply(opt nbd.Option, rep nbd.Reply) []byte {
	c.t.Helper()
	h, data, err := nbd.ReadOptionReply(c.in)
	if err != nil {
		c.t.Fatalf("awaiting %v to %v: %v", rep, opt, err)
	}
	if h.Option != opt || h.Reply != rep {
		c.t.Fatalf("got %v to %v (%q), want %v to %v", h.Reply, h.Option, data, rep, opt)
	}
	return data
}

// ask sends an option and receives its only reply.
func (c *client) ask(opt nbd.Option, data []byte, rep nbd.Reply) {
	c.t.Helper()
	c.option(opt, data)
	c.reply(opt, rep)
}

// enter sends GO and returns what it says of the export.
func (c *client) enter() nbd.Info {
	c.t.Helper()
	c.option(nbd.OptGo, nbd.AppendInfoRequest(nil, ""))
	info, err := nbd.ParseInfo(c.reply(nbd.OptGo, nbd.RepInfo))
	if err != nil {
		c.t.Fatal(err)
	}
	c.reply(nbd.OptGo, nbd.RepAck)
	return info
}

// structure negotiates structured replies and base:allocation.
func (c *client) structure() {
	c.t.Helper()
	c.ask(nbd.OptStructuredReply, nil, nbd.RepAck)
	c.option(nbd.OptSetMetaContext, nbd.AppendMetaContextRequest(nil, "", nbd.BaseAllocation))
	c.reply(nbd.OptSetMetaContext, nbd.RepMetaContext)
	c.reply(nbd.OptSetMetaContext, nbd.RepAck)
	c.structured = true
}

// both runs a test with simple and with structured replies.
func both(t *testing.T, test func(t *testing.T, structured bool)) {
	t.Run("simple", func(t *testing.T) { test(t, false) })
	t.Run("structured", func(t *testing.T) { test(t, true) })
}

// simple and structured start a session and bring it into the transmission phase.
func simple(t testing.TB, e *export.Export) *client { return enter(t, Config{Export: e}, false) }

func structured(t testing.TB, e *export.Export) *client { return enter(t, Config{Export: e}, true) }

func enter(t testing.TB, config Config, structured bool) *client {
	t.Helper()
	c := connect(t, config)
	c.greet(fixedNoZeroes)
	if structured {
		c.structure()
	}
	c.enter()
	return c
}

// send sends a request, with payload where there is one, and returns its cookie.
func (c *client) send(cmd nbd.Command, flags nbd.CommandFlags, off uint64, length uint32, payload ...[]byte) uint64 {
	c.t.Helper()
	b, cookie := c.request(cmd, flags, off, length)
	c.say(append([][]byte{b}, payload...)...)
	return cookie
}

// request makes a request that is answered some time.
func (c *client) request(cmd nbd.Command, flags nbd.CommandFlags, off uint64, length uint32) ([]byte, uint64) {
	c.cookies++
	r := nbd.Request{Command: cmd, Flags: flags, Cookie: 0xc000000000000000 + c.cookies, Offset: off, Length: length}
	c.pending[r.Cookie] = r
	return nbd.AppendRequest(nil, r), r.Cookie
}

// answer is a whole reply.
type answer struct {
	cookie  uint64
	errno   nbd.Errno
	message string
	data    []byte // of a read, holes filled in
	chunks  []nbd.ChunkHeader
	holes   int64 // bytes that came as holes
	extents []nbd.Descriptor
}

// next receives messages until one request is wholly answered.
func (c *client) next() *answer {
	c.t.Helper()
	open := map[uint64]*answer{}
	for {
		a, whole := c.message(open)
		if whole {
			if len(open) > 1 { // such a test calls all
				c.t.Fatal("chunks of several replies are mixed")
			}
			return a
		}
	}
}

// all receives n answers, in any order.
func (c *client) all(n int) map[uint64]*answer {
	c.t.Helper()
	open, answers := map[uint64]*answer{}, map[uint64]*answer{}
	for len(answers) < n {
		if a, whole := c.message(open); whole {
			answers[a.cookie] = a
		}
	}
	return answers
}

// message receives a simple reply or a chunk.
func (c *client) message(open map[uint64]*answer) (a *answer, whole bool) {
	c.t.Helper()
	magic, err := c.in.Peek(4)
	if err != nil {
		c.t.Fatalf("awaiting a reply: %v", err)
	}
	if binary.BigEndian.Uint32(magic) == nbd.MagicSimpleReply {
		return c.simpleReply(), true
	}
	h, err := nbd.DecodeChunkHeader(c.take(nbd.ChunkHeaderSize))
	if err != nil {
		c.t.Fatal(err)
	}
	r, known := c.pending[h.Cookie]
	if !known || !c.structured {
		c.t.Fatalf("unexpected chunk %+v", h)
	}
	if a = open[h.Cookie]; a == nil {
		a = &answer{cookie: h.Cookie}
		open[h.Cookie] = a
	}
	a.chunks = append(a.chunks, h)
	c.chunk(a, r, h, c.take(int(h.Length)))
	if h.Flags&nbd.ChunkFlagDone == 0 {
		return a, false
	}
	delete(c.pending, h.Cookie)
	if r.Command == nbd.CmdRead && a.errno == 0 && len(a.data) != int(r.Length) {
		c.t.Fatalf("a read of %d bytes was answered with %d", r.Length, len(a.data))
	}
	return a, true
}

func (c *client) simpleReply() *answer {
	c.t.Helper()
	reply, err := nbd.DecodeSimpleReply(c.take(nbd.SimpleReplySize))
	if err != nil {
		c.t.Fatal(err)
	}
	r, known := c.pending[reply.Cookie]
	if !known || c.structured && r.Command == nbd.CmdRead {
		c.t.Fatalf("unexpected simple reply %+v to %+v", reply, r)
	}
	delete(c.pending, reply.Cookie)
	a := &answer{cookie: reply.Cookie, errno: reply.Errno}
	if r.Command == nbd.CmdRead && reply.Errno == 0 {
		a.data = c.take(int(r.Length))
	}
	return a
}

// chunk adds a chunk to its reply. Data has to come in order and without gaps
// only where one chunk carries all of it; so the bytes are put in their place.
func (c *client) chunk(a *answer, r nbd.Request, h nbd.ChunkHeader, b []byte) {
	c.t.Helper()
	place := func(off uint64, n uint32) []byte {
		if !r.Contains(off, uint64(n)) {
			c.t.Fatalf("chunk of %d bytes at %d is no part of %+v", n, off, r)
		}
		if cap(a.data) == 0 {
			a.data = make([]byte, 0, r.Length)
		}
		a.data = a.data[:len(a.data)+int(n)]
		return a.data[:r.Length][off-r.Offset:][:n]
	}
	switch h.Type {
	case nbd.ChunkNone:
	case nbd.ChunkOffsetData:
		off, n, err := nbd.DecodeOffsetData(h, b)
		if err != nil {
			c.t.Fatal(err)
		}
		copy(place(off, n), b[nbd.OffsetDataSize:])
	case nbd.ChunkOffsetHole:
		off, n, err := nbd.DecodeOffsetHole(h, b)
		if err != nil {
			c.t.Fatal(err)
		}
		clear(place(off, n))
		a.holes += int64(n)
	case nbd.ChunkBlockStatus:
		id, extents, err := nbd.DecodeBlockStatus(nil, h, b)
		if err != nil || id != allocationID {
			c.t.Fatalf("block status for context %d: %v", id, err)
		}
		a.extents = extents
	default:
		e, err := nbd.DecodeError(h, b)
		if err != nil {
			c.t.Fatal(err)
		}
		a.errno, a.message = e.Errno, e.Message
	}
}

// do sends a request and receives its answer; no other is under way.
func (c *client) do(cmd nbd.Command, flags nbd.CommandFlags, off uint64, length uint32, payload ...[]byte) *answer {
	c.t.Helper()
	cookie := c.send(cmd, flags, off, length, payload...)
	a := c.next()
	if a.cookie != cookie {
		c.t.Fatalf("got an answer to %x, want one to %x", a.cookie, cookie)
	}
	return a
}

func (c *client) must(cmd nbd.Command, flags nbd.CommandFlags, off uint64, length uint32, payload ...[]byte) *answer {
	c.t.Helper()
	a := c.do(cmd, flags, off, length, payload...)
	if a.errno != 0 {
		c.t.Fatalf("%v of %d bytes at %d: %v %s", cmd, length, off, a.errno, a.message)
	}
	return a
}

// alive checks that the connection still takes requests.
func (c *client) alive() {
	c.t.Helper()
	c.must(nbd.CmdFlush, 0, 0, 0)
}

// leave disconnects by the rules.
func (c *client) leave() {
	c.t.Helper()
	c.say(nbd.AppendRequest(nil, nbd.Request{Command: nbd.CmdDisc}))
	c.wantEnd()
	_ = c.Close()
	c.wantResult(true)
}

// halfClose ends the client's side.
func (c *client) halfClose() {
	c.t.Helper()
	if !closeWrite(c.Conn) {
		c.t.Fatal("cannot half-close")
	}
}

// receive takes a value out of a channel before the patience ends.
func receive[T any](t testing.TB, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatal("waited in vain")
		panic("unreachable")
	}
}

// eventually waits until something holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}
