// SPDX-License-Identifier: GPL-3.0-or-later

package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flexnbd/flexnbd/core/nbd"
)

func TestGoTellsSizeFlagsAndBlockSizes(t *testing.T) {
	sizes := nbd.BlockSizes{Minimum: 512, Preferred: 4096, MaxPayload: 1 << 20}
	c := connect(t, play(t, func(s *script) {
		s.greet()
		info := func(data []byte) {
			s.say(nbd.AppendOptionReply(nil, nbd.OptGo, nbd.RepInfo, data))
		}
		info(nbd.AppendInfoName(nil, "disk"))
		info([]byte{0x12, 0x34, 1, 2, 3}) // a type of a time to come
		info(nbd.AppendInfoBlockSize(nil, sizes))
		info(nbd.AppendInfoExport(nil, 1<<40, testFlags))
		s.say(nbd.AppendOptionReply(nil, nbd.OptGo, nbd.RepAck, nil))
		s.want(goodbye)
		s.want(make([]byte, 7)) // cookie 1
		s.want(append([]byte{1}, make([]byte, 12)...))
		s.wantEnd()
	}))
	got, told := c.BlockSizes()
	if c.Size() != 1<<40 || c.Flags() != testFlags || got != sizes || !told {
		t.Errorf("got %d bytes, %v, %+v, %v", c.Size(), c.Flags(), got, told)
	}
	if err := c.Disconnect(); err != nil {
		t.Error(err)
	}
	if err := errors.Join(c.Disconnect(), c.Close(), c.Close()); err != nil {
		t.Errorf("once more: %v", err)
	}
}

func TestSizesNotToldAreTheDefault(t *testing.T) {
	c := connect(t, play(t, func(s *script) {
		s.open(4096, testFlags)
		s.wantEnd()
	}))
	if got, told := c.BlockSizes(); got != nbd.DefaultBlockSizes || told {
		t.Errorf("got %+v, %v", got, told)
	}
	if err := errors.Join(c.Close(), c.Disconnect()); err != nil {
		t.Error(err)
	}
}

func TestFlagsWithoutHasFlagsMeanNothing(t *testing.T) {
	c := connect(t, play(t, func(s *script) { s.open(4096, nbd.FlagReadOnly) }))
	if c.Flags() != 0 {
		t.Errorf("got %v", c.Flags())
	}
}

func TestExportNameIsUsedWhereGoIsNotKnown(t *testing.T) {
	exportName := []byte("IHAVEOPT\x00\x00\x00\x01\x00\x00\x00\x04disk")
	answer := "\x00\x00\x00\x00\x00\x10\x00\x00\x00\x0d"
	padding := string(make([]byte, 124))
	for name, run := range map[string]func(*script){
		"fixed newstyle, GO unknown": func(s *script) {
			s.greet()
			s.say(nbd.AppendOptionReply(nil, nbd.OptGo, nbd.RepInfo, nbd.AppendInfoBlockSize(nil, nbd.BlockSizes{Minimum: 4096, Preferred: 4096, MaxPayload: 4096})))
			s.say(nbd.AppendOptionError(nil, nbd.OptGo, nbd.RepErrUnsup, "what?"))
			s.want(exportName)
			s.say([]byte(answer))
		},
		"fixed newstyle with zeroes": func(s *script) {
			s.say([]byte("NBDMAGICIHAVEOPT\x00\x01"))
			s.want([]byte{0, 0, 0, 1})
			s.want([]byte("IHAVEOPT\x00\x00\x00\x07\x00\x00\x00\x0c\x00\x00\x00\x04disk\x00\x01\x00\x03"))
			s.say(nbd.AppendOptionError(nil, nbd.OptGo, nbd.RepErrUnsup, ""))
			s.want(exportName)
			s.say([]byte(answer + padding))
		},
		"plain newstyle without zeroes": func(s *script) {
			s.say([]byte("NBDMAGICIHAVEOPT\x80\x02")) // and a flag of a time to come
			s.want([]byte{0, 0, 0, 2})
			s.want(exportName)
			s.say([]byte(answer))
		},
		"plain newstyle": func(s *script) {
			s.say([]byte("NBDMAGICIHAVEOPT\x00\x00"))
			s.want([]byte{0, 0, 0, 0})
			s.want(exportName)
			s.say([]byte(answer + padding))
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := connect(t, play(t, func(s *script) {
				run(s)
				s.want([]byte("\x25\x60\x95\x13\x00\x00\x00\x00")) // a READ, so nothing is left over
				s.skip(20)
				s.say(append(nbd.AppendSimpleReply(nil, 0, 1), "abc"...))
			}))
			if c.Size() != 1<<20 || c.Flags() != testFlags {
				t.Errorf("got %d bytes, %v", c.Size(), c.Flags())
			}
			if _, told := c.BlockSizes(); told {
				t.Error("sizes are said to be told")
			}
			var got bytes.Buffer
			if err := c.ReadTo(t.Context(), &got, 1, 3); err != nil || got.String() != "abc" {
				t.Errorf("read %q, %v", &got, err)
			}
		})
	}
}

func TestRefusalsOfTheServerAreTold(t *testing.T) {
	for _, c := range []struct {
		reply     nbd.Reply
		msg, want string
	}{
		{nbd.RepErrUnknown, "", "no such export"},
		{nbd.RepErrPolicy, "go away\x1b[2J", `policy forbids it (ERR_POLICY); the server says "go away\x1b[2J"`},
		{nbd.RepErrTLSReqd, "", "TLS"},
		{nbd.RepErrShutdown, "", "shutting down"},
		{nbd.RepErrExtHeaderReqd, "", "extended headers"},
		{nbd.RepErrTooBig, "", "ERR_TOO_BIG"},
		{1<<31 + 99, "", "0x80000063"},
	} {
		conn := play(t, func(s *script) {
			s.greet()
			s.say(nbd.AppendOptionError(nil, nbd.OptGo, c.reply, c.msg))
			s.want(abortOpt)
			s.wantEnd()
		})
		_, err := Connect(t.Context(), conn, Options{Export: "disk"})
		var no *RefusedError
		if !errors.As(err, &no) || no.Reply != c.reply || no.Option != nbd.OptGo || no.Message != c.msg {
			t.Errorf("%v: got %v", c.reply, err)
		}
		if err != nil && (!strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), `"disk"`)) {
			t.Errorf("%v: got %q, want %q in it", c.reply, err, c.want)
		}
	}
}

func TestWhatIsNoNewstyleServerIsNamed(t *testing.T) {
	for name, c := range map[string]struct {
		says string
		is   error
		want string
	}{
		"ssh":              {"SSH-2.0-OpenSSH_9.2\r\n", nbd.ErrMagic, `not an NBD server, its first bytes are "SSH-2.0-`},
		"a few bytes only": {"+OK\r\n", nbd.ErrMagic, `first bytes are "+OK`},
		"control bytes":    {"\x15\x03\x01\x00\x02", nbd.ErrMagic, `first bytes are "\x15\x03`},
		"neither style":    {"NBDMAGICwhatever", nbd.ErrMagic, "not an NBD server"},
	} {
		// The server says its piece and waits, so the client must not wait, too.
		conn := play(t, func(s *script) {
			s.tell([]byte(c.says)) // fails when the client hangs up in the middle
			s.drain()
		})
		_, err := Connect(t.Context(), conn, Options{Export: "disk"})
		if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestBrokenHandshakesAreErrors(t *testing.T) {
	export := nbd.AppendOptionReply(nil, nbd.OptGo, nbd.RepInfo, nbd.AppendInfoExport(nil, 4096, testFlags))
	ack := nbd.AppendOptionReply(nil, nbd.OptGo, nbd.RepAck, nil)
	wrongMagic := bytes.Clone(ack)
	wrongMagic[0] = 1
	for name, c := range map[string]struct {
		says []byte
		want string
	}{
		"no size":                   {ack, "without telling its size"},
		"answer to another option":  {nbd.AppendOptionReply(nil, nbd.OptInfo, nbd.RepAck, nil), "INFO"},
		"reply of another kind":     {nbd.AppendOptionReply(nil, nbd.OptGo, nbd.RepServer, []byte{0, 0, 0, 0}), "SERVER"},
		"unknown reply":             {nbd.AppendOptionReply(nil, nbd.OptGo, 77, nil), "reply 0x4d"},
		"ACK with data":             {append(export, nbd.AppendOptionReply(nil, nbd.OptGo, nbd.RepAck, []byte("x"))...), "ACK"},
		"wrong magic":               {wrongMagic, "wrong magic number"},
		"size beyond 2^63":          {nbd.AppendOptionReply(nil, nbd.OptGo, nbd.RepInfo, nbd.AppendInfoExport(nil, 1<<63, testFlags)), "9223372036854775808"},
		"information of wrong size": {nbd.AppendOptionReply(nil, nbd.OptGo, nbd.RepInfo, []byte{0, 0, 1}), "has to be 12"},
		"impossible block sizes":    {nbd.AppendOptionReply(nil, nbd.OptGo, nbd.RepInfo, nbd.AppendInfoBlockSize(nil, nbd.BlockSizes{Minimum: 3})), "power of two"},
		"endless information":       {bytes.Repeat(export, maxReplies+1), "more than 64 replies"},
		"too much information":      {nbd.AppendOptionReply(nil, nbd.OptGo, nbd.RepInfo, make([]byte, nbd.MaxOptionLength+1)), "too long"},
		"closed at once":            {nil, "closed the connection"},
	} {
		conn := play(t, func(s *script) {
			s.greet()
			s.tell(c.says) // fails when the client hangs up in the middle
			if name != "closed at once" {
				s.wantEnd()
			}
		})
		_, err := Connect(t.Context(), conn, Options{Export: "disk"})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestExportNameThatIsHungUpOnSuspectsTheName(t *testing.T) {
	conn := play(t, func(s *script) {
		s.greet()
		s.say(nbd.AppendOptionError(nil, nbd.OptGo, nbd.RepErrUnsup, ""))
		s.want(nbd.AppendOption(nil, nbd.OptExportName, []byte("disk")))
	})
	_, err := Connect(t.Context(), conn, Options{Export: "disk"})
	if !errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(err.Error(), "no such export") {
		t.Errorf("got %v", err)
	}
}

func TestExportNameThatCannotTravelIsRefusedHere(t *testing.T) {
	for _, name := range []string{"a\x00b", "\xff", strings.Repeat("n", 4097)} {
		conn := play(t, func(s *script) { s.wantEnd() })
		if _, err := Connect(t.Context(), conn, Options{Export: name}); !errors.Is(err, nbd.ErrMalformed) {
			t.Errorf("%.10q: got %v", name, err)
		}
	}
}

func TestHungHandshakeEndsAfterTenSeconds(t *testing.T) {
	for name, run := range map[string]func(*script){
		"silent":              func(s *script) { s.drain() },
		"half a greeting":     func(s *script) { s.say([]byte("NBDMAGICIHAV")); s.drain() },
		"takes nothing":       func(s *script) { s.say([]byte("NBDMAGICIHAVEOPT\x00\x03")); <-s.t.Context().Done() },
		"does not answer GO":  func(s *script) { s.greet(); s.drain() },
		"one byte per second": func(s *script) { trickle(s) },
	} {
		synctest.Test(t, func(t *testing.T) {
			conn := play(t, run)
			begin := time.Now()
			_, err := Connect(t.Context(), conn, Options{Export: "disk"})
			if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "did not complete the handshake within 10s") {
				t.Errorf("%s: got %v", name, err)
			}
			if took := time.Since(begin); took != 10*time.Second {
				t.Errorf("%s: it took %v", name, took)
			}
			var timeout interface{ Timeout() bool }
			if !errors.As(err, &timeout) || !timeout.Timeout() {
				t.Errorf("%s: %v is no time-out", name, err)
			}
		})
	}
}

// trickle keeps a client waiting by giving it something all the time.
func trickle(s *script) {
	for _, b := range []byte("NBDMAGICIHAVEOPT") {
		if _, err := s.Write([]byte{b}); err != nil {
			return
		}
		time.Sleep(time.Second) // fake time: the server's pace, not a wait for a state
	}
}

func TestHandshakeEndsWithItsContext(t *testing.T) {
	for _, dial := range []func(*testing.T, func(*script)) net.Conn{play, playTCP} {
		ctx, cancel := context.WithCancelCause(t.Context())
		reason := errors.New("the user has lost patience")
		conn := dial(t, func(s *script) {
			s.greet()
			cancel(reason)
			s.drain()
		})
		if _, err := Connect(ctx, conn, Options{Export: "disk"}); !errors.Is(err, reason) {
			t.Errorf("got %v", err)
		}
		if _, err := conn.Read(make([]byte, 1)); !isClosed(err) {
			t.Errorf("the connection was left open: %v", err)
		}
	}
}
