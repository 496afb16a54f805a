// SPDX-License-Identifier: GPL-3.0-or-later

package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// wantRequest reads a request's header and compares it.
func (s *script) wantRequest(cmd nbd.Command, cookie, off uint64, n uint32) {
	s.t.Helper()
	var b [nbd.RequestSize]byte
	if _, err := io.ReadFull(s, b[:]); err != nil {
		s.t.Errorf("server: awaiting %v: %v", cmd, err)
		return
	}
	got, err := nbd.DecodeRequest(b[:])
	if want := (nbd.Request{Command: cmd, Cookie: cookie, Offset: off, Length: n}); got != want || err != nil {
		s.t.Errorf("server: got %+v, %v; want %+v", got, err, want)
	}
}

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}

func TestReadStreamsOneRequest(t *testing.T) {
	data := pattern(3*bufferSize + 5)
	for _, dial := range []func(*testing.T, func(*script)) net.Conn{play, playTCP} {
		c := connect(t, dial(t, func(s *script) {
			s.open(1<<30, testFlags)
			s.wantRequest(nbd.CmdRead, 1, 12345, uint32(len(data)))
			s.say(nbd.AppendSimpleReply(nil, 0, 1))
			s.say(data)
			s.wantRequest(nbd.CmdRead, 2, 0, 1)
			s.say(append(nbd.AppendSimpleReply(nil, 0, 2), 'x'))
			s.wantEnd()
		}))
		var got bytes.Buffer
		if err := c.ReadTo(t.Context(), &got, 12345, uint32(len(data))); err != nil || !bytes.Equal(got.Bytes(), data) {
			t.Fatalf("got %d bytes, %v", got.Len(), err)
		}
		got.Reset()
		if err := c.ReadTo(t.Context(), &got, 0, 1); err != nil || got.String() != "x" {
			t.Errorf("got %q, %v", &got, err)
		}
		if len(c.buf) > bufferSize {
			t.Errorf("a buffer of %d bytes", len(c.buf))
		}
		c.Close()
	}
}

func TestServerErrorNamesRequestAndLeavesTheConnectionUsable(t *testing.T) {
	c := connect(t, play(t, func(s *script) {
		s.open(1<<20, testFlags)
		s.wantRequest(nbd.CmdRead, 1, 4096, 512)
		s.say(nbd.AppendSimpleReply(nil, nbd.EIO, 1))
		s.wantRequest(nbd.CmdFlush, 2, 0, 0)
		s.say(nbd.AppendSimpleReply(nil, nbd.ENOSPC, 2))
		s.wantRequest(nbd.CmdFlush, 3, 0, 0)
		s.say(nbd.AppendSimpleReply(nil, 0, 3))
	}))
	var got bytes.Buffer
	err := c.ReadTo(t.Context(), &got, 4096, 512)
	var req *RequestError
	if !errors.Is(err, nbd.EIO) || !errors.As(err, &req) || got.Len() > 0 ||
		err.Error() != "READ of 512 bytes at offset 4096: input/output error (EIO)" {
		t.Errorf("read: got %v, %d bytes", err, got.Len())
	}
	if err := c.Flush(t.Context()); !errors.Is(err, nbd.ENOSPC) || !strings.HasPrefix(err.Error(), "FLUSH: ") {
		t.Errorf("flush: got %v", err)
	}
	if err := c.Flush(t.Context()); err != nil {
		t.Errorf("second flush: got %v", err)
	}
}

func TestShutdownErrorEndsWithAGoodbye(t *testing.T) {
	c := connect(t, play(t, func(s *script) {
		s.open(1<<20, testFlags)
		s.wantRequest(nbd.CmdFlush, 1, 0, 0)
		s.say(nbd.AppendSimpleReply(nil, nbd.ESHUTDOWN, 1))
		s.wantRequest(nbd.CmdDisc, 2, 0, 0)
		s.wantEnd()
	}))
	if err := c.Flush(t.Context()); !errors.Is(err, nbd.ESHUTDOWN) {
		t.Errorf("got %v", err)
	}
	if err := c.Flush(t.Context()); !errors.Is(err, nbd.ESHUTDOWN) || !strings.Contains(err.Error(), "no longer usable") {
		t.Errorf("afterwards: got %v", err)
	}
}

func TestRequestsThatCannotBeRightAreNotSent(t *testing.T) {
	sizes := nbd.BlockSizes{Minimum: 512, Preferred: 4096, MaxPayload: 1 << 20}
	const size = 4 << 30
	open := func(flags nbd.TransmissionFlags, sizes ...nbd.BlockSizes) *Client {
		return connect(t, play(t, func(s *script) {
			s.open(size, flags, sizes...)
			s.wantEnd()
		}))
	}
	plain, readOnly, strict := open(testFlags), open(nbd.FlagHasFlags|nbd.FlagReadOnly), open(testFlags, sizes)
	for _, c := range []struct {
		name string
		err  error
		is   error
		want string
	}{
		{"beyond the end", plain.ReadTo(t.Context(), io.Discard, size-511, 512), ErrOutOfRange,
			`READ of 512 bytes at offset 4294966785: out of range: the export "disk" has 4294967296 bytes`},
		{"offset beyond the end", plain.ReadTo(t.Context(), io.Discard, size+1, 0), ErrOutOfRange, "4294967296"},
		{"offset that wraps around", plain.ReadTo(t.Context(), io.Discard, 1<<64-1, 2), ErrOutOfRange, "4294967296"},
		{"write beyond the end", plain.WriteFrom(t.Context(), strings.NewReader("x"), size, 1), ErrOutOfRange, "WRITE"},
		{"too long", plain.ReadTo(t.Context(), io.Discard, 0, MaxRequest+1), ErrOutOfRange, "1073741824"},
		{"write to a read-only export", readOnly.WriteFrom(t.Context(), strings.NewReader("x"), 0, 1), ErrReadOnly, "read-only"},
		{"flush not offered", readOnly.Flush(t.Context()), ErrUnsupported, "FLUSH"},
		{"offset not aligned", strict.ReadTo(t.Context(), io.Discard, 7, 512), ErrUnsupported, "multiples of its smallest block, 512"},
		{"length not aligned", strict.ReadTo(t.Context(), io.Discard, 512, 7), ErrUnsupported, "multiples of its smallest block, 512"},
		{"over the maximum", strict.ReadTo(t.Context(), io.Discard, 0, 2<<20), ErrUnsupported, "at most 1048576"},
	} {
		var req *RequestError
		if !errors.Is(c.err, c.is) || !errors.As(c.err, &req) || !strings.Contains(c.err.Error(), c.want) {
			t.Errorf("%s: got %v", c.name, c.err)
		}
	}
	// No bytes at all are no request either.
	if err := plain.ReadTo(t.Context(), io.Discard, size, 0); err != nil {
		t.Error(err)
	}
	if err := plain.WriteFrom(t.Context(), nil, 0, 0); err != nil {
		t.Error(err)
	}
	for _, c := range []*Client{plain, readOnly, strict} {
		if c.broken != nil {
			t.Errorf("a local refusal broke the connection: %v", c.broken)
		}
		c.Close()
	}
}

func TestReadWithoutToldSizesGoesUpToTheGreatest(t *testing.T) {
	c := connect(t, play(t, func(s *script) {
		s.open(1<<31, testFlags)
		s.wantRequest(nbd.CmdRead, 1, 1, MaxRequest)
		s.say(nbd.AppendSimpleReply(nil, nbd.EOVERFLOW, 1))
	}))
	if err := c.ReadTo(t.Context(), io.Discard, 1, MaxRequest); !errors.Is(err, nbd.EOVERFLOW) {
		t.Errorf("got %v", err)
	}
}

func TestBrokenRepliesCutTheConnection(t *testing.T) {
	for name, c := range map[string]struct {
		says []byte
		want string
	}{
		"structured reply":     {nbd.AppendOffsetData(nil, nbd.ChunkFlagDone, 1, 0, 512), "66 8e 33 ef"},
		"wrong cookie":         {nbd.AppendSimpleReply(nil, 0, 9), "request 9 instead of 1"},
		"wrong cookie, failed": {nbd.AppendSimpleReply(nil, nbd.EIO, 9), "request 9 instead of 1"},
		"half a reply":         {nbd.AppendSimpleReply(nil, 0, 1)[:10], "before the end of the reply"},
		"no reply":             {nil, "before the end of the reply"},
		"half the data":        {append(nbd.AppendSimpleReply(nil, 0, 1), make([]byte, 500)...), "after 500 of 512 bytes: the server closed the connection"},
	} {
		client := connect(t, play(t, func(s *script) {
			s.open(1<<20, testFlags)
			s.wantRequest(nbd.CmdRead, 1, 0, 512)
			s.tell(c.says)
		}))
		err := client.ReadTo(t.Context(), io.Discard, 0, 512)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v", name, err)
		}
		if err := client.Flush(t.Context()); err == nil || !strings.Contains(err.Error(), "no longer usable") {
			t.Errorf("%s: afterwards got %v", name, err)
		}
		if err := client.Disconnect(); err != nil {
			t.Errorf("%s: disconnecting: %v", name, err)
		}
	}
}

// brokenWriter fails after it has taken n bytes.
type brokenWriter struct {
	n   int
	err error
}

func (w *brokenWriter) Write(b []byte) (int, error) {
	if len(b) > w.n {
		n := w.n
		w.n = 0
		return n, w.err
	}
	w.n -= len(b)
	return len(b), nil
}

func TestFailedOutputIsNotTakenForTheServer(t *testing.T) {
	for _, c := range []struct{ fails, is error }{
		{io.ErrNoProgress, io.ErrNoProgress},
		{nil, io.ErrShortWrite},
		{nbd.EIO, nbd.EIO},                               // an errno, but not this server's
		{os.ErrDeadlineExceeded, os.ErrDeadlineExceeded}, // a time-out, but not this connection's
	} {
		client := connect(t, playTCP(t, func(s *script) {
			s.open(1<<30, testFlags)
			s.wantRequest(nbd.CmdRead, 1, 0, 4*bufferSize)
			s.say(nbd.AppendSimpleReply(nil, 0, 1))
			s.tell(make([]byte, 4*bufferSize)) // fails when the client hangs up
		}))
		err := client.ReadTo(t.Context(), &brokenWriter{1000, c.fails}, 0, 4*bufferSize)
		if !errors.Is(err, ErrOutput) || !errors.Is(err, c.is) {
			t.Errorf("got %v", err)
		}
		if err := client.Flush(t.Context()); !errors.Is(err, ErrOutput) || !strings.Contains(err.Error(), "no longer usable") {
			t.Errorf("afterwards: got %v", err)
		}
	}
}

func TestEveryCallEndsWithItsContext(t *testing.T) {
	calls := map[string]func(context.Context, *Client) error{
		"read":  func(ctx context.Context, c *Client) error { return c.ReadTo(ctx, io.Discard, 0, 512) },
		"write": func(ctx context.Context, c *Client) error { return c.WriteFrom(ctx, strings.NewReader("abc"), 0, 3) },
		"flush": func(ctx context.Context, c *Client) error { return c.Flush(ctx) },
	}
	for name, call := range calls {
		for _, dial := range []func(*testing.T, func(*script)) net.Conn{play, playTCP} {
			ctx, cancel := context.WithCancel(t.Context())
			c := connect(t, dial(t, func(s *script) {
				s.open(1<<20, testFlags)
				s.skip(nbd.RequestSize)
				cancel() // the request is there; no reply ever comes
				s.drain()
			}))
			if err := call(ctx, c); !errors.Is(err, context.Canceled) {
				t.Errorf("%s: got %v", name, err)
			}
			if err := c.Flush(t.Context()); err == nil || !strings.Contains(err.Error(), "no longer usable") {
				t.Errorf("%s: afterwards got %v", name, err)
			}
		}
	}
}

func TestEndedContextSendsNothing(t *testing.T) {
	c := connect(t, play(t, func(s *script) {
		s.open(1<<20, testFlags)
		s.wantRequest(nbd.CmdFlush, 1, 0, 0)
		s.say(nbd.AppendSimpleReply(nil, 0, 1))
	}))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.ReadTo(ctx, io.Discard, 0, 512); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := c.Flush(t.Context()); err != nil {
		t.Errorf("the connection has suffered: %v", err)
	}
}

func TestCloseEndsACallUnderWay(t *testing.T) {
	asked := make(chan struct{})
	c := connect(t, play(t, func(s *script) {
		s.open(1<<20, testFlags)
		s.wantRequest(nbd.CmdFlush, 1, 0, 0)
		close(asked)
		s.drain()
	}))
	closed := make(chan error, 1)
	go func() {
		<-asked
		closed <- c.Close()
	}()
	if err := c.Flush(t.Context()); err == nil {
		t.Error("a flush without a reply succeeded")
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

func TestDisconnectTellsWhenTheGoodbyeIsNotTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		c := connect(t, play(t, func(s *script) {
			s.open(1<<20, testFlags)
			<-release // takes nothing: the pipe has no buffer
		}))
		if err := c.Disconnect(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		close(release)
	})
}
