// SPDX-License-Identifier: GPL-3.0-or-later

package client

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flexnbd/flexnbd/core/nbd"
)

func TestWriteStreamsOneRequest(t *testing.T) {
	data := pattern(3*bufferSize + 5)
	for _, dial := range []func(*testing.T, func(*script)) net.Conn{play, playTCP} {
		c := connect(t, dial(t, func(s *script) {
			s.open(1<<30, testFlags)
			s.wantRequest(nbd.CmdWrite, 1, 4096, uint32(len(data)))
			s.want(data)
			s.say(nbd.AppendSimpleReply(nil, 0, 1))
			s.wantRequest(nbd.CmdWrite, 2, 0, 3)
			s.want([]byte("abc"))
			s.say(nbd.AppendSimpleReply(nil, 0, 2))
			s.wantEnd()
		}))
		if err := c.WriteFrom(t.Context(), bytes.NewReader(data), 4096, uint32(len(data))); err != nil {
			t.Fatal(err)
		}
		// What the reader has beyond the request stays where it is.
		r := strings.NewReader("abcdef")
		if err := c.WriteFrom(t.Context(), r, 0, 3); err != nil || r.Len() != 3 {
			t.Errorf("got %v, %d bytes left", err, r.Len())
		}
		c.Close()
	}
}

func TestRefusedWriteLeavesTheConnectionUsable(t *testing.T) {
	c := connect(t, play(t, func(s *script) {
		s.open(1<<20, testFlags)
		s.wantRequest(nbd.CmdWrite, 1, 0, 3)
		s.want([]byte("abc"))
		s.say(nbd.AppendSimpleReply(nil, nbd.ENOSPC, 1))
		s.wantRequest(nbd.CmdWrite, 2, 0, 3)
		s.want([]byte("abc"))
		s.say(nbd.AppendSimpleReply(nil, 0, 2))
	}))
	err := c.WriteFrom(t.Context(), strings.NewReader("abc"), 0, 3)
	if !errors.Is(err, nbd.ENOSPC) || err.Error() != "WRITE of 3 bytes at offset 0: no space left on device (ENOSPC)" {
		t.Errorf("got %v", err)
	}
	if err := c.WriteFrom(t.Context(), strings.NewReader("abc"), 0, 3); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestInputThatEndsTooEarlyCutsTheConnection(t *testing.T) {
	broken := errors.New("disk on fire")
	for name, c := range map[string]struct {
		r    io.Reader
		is   error
		want string
	}{
		"empty":         {strings.NewReader(""), io.ErrUnexpectedEOF, "the input ended after 0 of 600000 bytes"},
		"short":         {bytes.NewReader(make([]byte, 599999)), io.ErrUnexpectedEOF, "the input ended after 599999 of 600000 bytes"},
		"broken":        {io.MultiReader(bytes.NewReader(make([]byte, 300000)), failing{broken}), broken, "after 300000 of 600000 bytes"},
		"another errno": {failing{nbd.EIO}, nbd.EIO, "after 0 of"},
	} {
		client := connect(t, playTCP(t, func(s *script) {
			s.open(1<<20, testFlags)
			s.wantRequest(nbd.CmdWrite, 1, 0, 600000)
			got, err := io.ReadAll(s)
			if err != nil || len(got) >= 600000 {
				s.t.Errorf("server: got %d bytes, %v", len(got), err)
			}
		}))
		err := client.WriteFrom(t.Context(), c.r, 0, 600000)
		if !errors.Is(err, ErrInput) || !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want) ||
			!strings.Contains(err.Error(), "a prefix of them may have been written") {
			t.Errorf("%s: got %v", name, err)
		}
		if err := client.Flush(t.Context()); !errors.Is(err, ErrInput) || !strings.Contains(err.Error(), "no longer usable") {
			t.Errorf("%s: afterwards got %v", name, err)
		}
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// endless is input that never ends, so that only the reply can end the write.
type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }

func TestEarlyErrorReplyIsReported(t *testing.T) {
	const n = 64 << 20 // more than any socket buffer takes
	for name, run := range map[string]func(*script){
		"and then nothing is read": func(s *script) {
			s.say(nbd.AppendSimpleReply(nil, nbd.ENOSPC, 1))
			<-s.t.Context().Done()
		},
		"and the rest is drained": func(s *script) {
			s.say(nbd.AppendSimpleReply(nil, nbd.ENOSPC, 1))
			s.drain()
		},
		"after half of it": func(s *script) {
			s.skip(n / 2)
			s.say(nbd.AppendSimpleReply(nil, nbd.ENOSPC, 1))
			s.drain()
		},
		"and the sending side is shut": func(s *script) {
			s.say(nbd.AppendSimpleReply(nil, nbd.ENOSPC, 1))
			if half, ok := s.Conn.(*net.TCPConn); ok {
				_ = half.CloseWrite()
			}
			s.drain()
		},
	} {
		for _, dial := range []func(*testing.T, func(*script)) net.Conn{play, playTCP} {
			t.Run(name, func(t *testing.T) {
				c := connect(t, dial(t, func(s *script) {
					s.open(1<<30, testFlags)
					s.wantRequest(nbd.CmdWrite, 1, 0, n)
					run(s)
				}))
				if err := c.WriteFrom(t.Context(), endless{}, 0, n); !errors.Is(err, nbd.ENOSPC) {
					t.Errorf("got %v", err)
				}
				if err := c.Flush(t.Context()); err == nil || !strings.Contains(err.Error(), "no longer usable") {
					t.Errorf("afterwards: got %v", err)
				}
			})
		}
	}
}

// brokenPipe is a connection that can no longer be written to, as after a reset,
// while what the server said before can still be read.
type brokenPipe struct {
	net.Conn
	failed chan struct{} // closed when a write has failed
}

func (b *brokenPipe) Write([]byte) (int, error) {
	close(b.failed)
	return 0, io.ErrClosedPipe
}

func (b *brokenPipe) Read(p []byte) (int, error) {
	<-b.failed // so that the failure comes first
	return b.Conn.Read(p)
}

func TestReplyBehindABrokenPipeIsReported(t *testing.T) {
	for _, c := range []struct {
		reply nbd.Errno
		want  string
	}{
		{nbd.EPERM, "EPERM"},
		{0, "before it has all of the data"},
	} {
		client := connect(t, play(t, func(s *script) {
			s.open(1<<30, testFlags)
			s.say(nbd.AppendSimpleReply(nil, c.reply, 1))
			s.wantEnd()
		}))
		client.conn = &brokenPipe{client.conn, make(chan struct{})}
		err := client.WriteFrom(t.Context(), endless{}, 0, 4096)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("reply %v: got %v", c.reply, err)
		}
		if client.broken == nil {
			t.Errorf("reply %v: the connection counts as usable", c.reply)
		}
	}
}

func TestServerThatGoesAwayDuringAWriteIsAnError(t *testing.T) {
	const n = 64 << 20
	for _, dial := range []func(*testing.T, func(*script)) net.Conn{play, playTCP} {
		for _, taken := range []int64{0, 1, 100000} {
			c := connect(t, dial(t, func(s *script) {
				s.open(1<<30, testFlags)
				s.wantRequest(nbd.CmdWrite, 1, 0, n)
				s.skip(taken)
			}))
			err := c.WriteFrom(t.Context(), endless{}, 0, n)
			var errno nbd.Errno
			if err == nil || errors.As(err, &errno) || errors.Is(err, ErrInput) || strings.Contains(err.Error(), "i/o timeout") {
				t.Errorf("after %d bytes: got %v", taken, err)
			}
		}
	}
}

func TestSilentServerBehindABrokenPipeIsNotWaitedForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := connect(t, play(t, func(s *script) {
			s.open(1<<30, testFlags)
			s.wantEnd()
		}))
		c.conn = &brokenPipe{c.conn, make(chan struct{})}
		begin := time.Now()
		if err := c.WriteFrom(t.Context(), endless{}, 0, 4096); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("got %v", err)
		}
		if took := time.Since(begin); took != goodbyeTimeout {
			t.Errorf("it took %v", took)
		}
	})
}

func TestSuccessBeforeAllIsSentIsABreach(t *testing.T) {
	const n = 1 << 20
	for name, run := range map[string]func(*script){
		"and the rest is drained":  func(s *script) { s.drain() },
		"and then nothing is read": func(s *script) { time.Sleep(10 * time.Second) }, // fake time
	} {
		synctest.Test(t, func(t *testing.T) {
			c := connect(t, play(t, func(s *script) {
				s.open(1<<30, testFlags)
				s.wantRequest(nbd.CmdWrite, 1, 0, n)
				s.say(nbd.AppendSimpleReply(nil, 0, 1))
				synctest.Wait() // until the client has seen it
				run(s)
			}))
			err := c.WriteFrom(t.Context(), endless{}, 0, n)
			if err == nil || !strings.Contains(err.Error(), "before it has all of the data") {
				t.Errorf("%s: got %v", name, err)
			}
			if err := c.Flush(t.Context()); err == nil || !strings.Contains(err.Error(), "no longer usable") {
				t.Errorf("%s: afterwards got %v", name, err)
			}
		})
	}
}
