// SPDX-License-Identifier: GPL-3.0-or-later

package client

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/flexnbd/flexnbd/core/nbd"
)

var (
	testHello = nbd.MigrationHello{
		Version: nbd.MigrationVersion, Purpose: nbd.MigrationSend, Size: 1 << 20,
		Source: [16]byte{1}, ID: [16]byte{2}, Replaces: [16]byte{3},
	}
	testAnswer = nbd.MigrationAnswer{
		Version: nbd.MigrationVersion, Flags: nbd.MigrationZeroes | nbd.MigrationPrepared, Size: 1 << 20,
		Prepared: [16]byte{3}, Address: "::1", Port: 4777,
	}
)

// migrateOpt is testHello on the wire, by hand.
const migrateOpt = "IHAVEOPTFLEX\x00\x00\x00\x40" + "\x00\x01\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x10\x00\x00" +
	"\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" +
	"\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" +
	"\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// migrated are the replies that accept testHello.
func migrated(a nbd.MigrationAnswer) []byte {
	b := nbd.AppendOptionReply(nil, nbd.OptMigrate, nbd.RepMigrate, nbd.AppendMigrationAnswer(nil, a))
	return nbd.AppendOptionReply(b, nbd.OptMigrate, nbd.RepAck, nil)
}

// exported are the replies to OPT_GO.
func exported(size uint64, flags nbd.TransmissionFlags) []byte {
	b := nbd.AppendOptionReply(nil, nbd.OptGo, nbd.RepInfo, nbd.AppendInfoExport(nil, size, flags))
	return nbd.AppendOptionReply(b, nbd.OptGo, nbd.RepAck, nil)
}

const goOpt = "IHAVEOPT\x00\x00\x00\x07\x00\x00\x00\x08\x00\x00\x00\x00\x00\x01\x00\x03"

func TestMigrationIsAskedBeforeTheExport(t *testing.T) {
	c, err := Connect(t.Context(), play(t, func(s *script) {
		s.say([]byte("NBDMAGICIHAVEOPT\x00\x03"))
		s.want([]byte{0, 0, 0, 3})
		s.want([]byte(migrateOpt))
		s.say(migrated(testAnswer))
		s.want([]byte(goOpt))
		s.say(exported(1<<20, pipelineFlags))
		for _, want := range []nbd.Command{nbd.CmdPrepare, nbd.CmdCommit} {
			for _, req := range s.requests(1) {
				if req != (nbd.Request{Command: want, Cookie: req.Cookie}) {
					t.Errorf("got %+v, want %v", req, want)
				}
				s.say(nbd.AppendSimpleReply(nil, 0, req.Cookie))
			}
		}
		s.wantGoodbye()
	}), Options{Migration: &testHello})
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := c.Migration(); got != testAnswer || !ok || c.Oldstyle() {
		t.Errorf("got %+v, %v", got, ok)
	}
	p := c.Pipeline(PipelineOptions{})
	l := newLedger(t)
	prepare := l.call(nbd.CmdPrepare, 0, 0)
	p.Send(prepare)
	l.ended.Wait()
	commit := l.call(nbd.CmdCommit, 0, 0)
	p.Send(commit)
	if err := p.Disconnect(t.Context()); err != nil || l.of(prepare) != nil || l.of(commit) != nil {
		t.Errorf("got %v, %v, %v", err, l.of(prepare), l.of(commit))
	}
}

func TestServersThatKnowNoMigrationAreConnectedAllTheSame(t *testing.T) {
	unsup := nbd.AppendOptionError(nil, nbd.OptMigrate, nbd.RepErrUnsup, "what?")
	for name, says := range map[string][]byte{
		"ERR_UNSUP":      slices.Concat(nbd.AppendGreeting(nil, 3), unsup, exported(1<<20, testFlags)),
		"plain newstyle": slices.Concat(nbd.AppendGreeting(nil, 2), nbd.AppendExportNameReply(nil, 1<<20, testFlags, true)),
		"oldstyle":       nbd.AppendOldstyleGreeting(nil, 1<<20, testFlags),
	} {
		c, err := Connect(t.Context(), canned{bytes.NewReader(says)}, Options{Migration: &testHello})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if _, ok := c.Migration(); ok || c.Size() != 1<<20 || c.Oldstyle() != (name == "oldstyle") {
			t.Errorf("%s: %v, %d bytes, oldstyle: %v", name, ok, c.Size(), c.Oldstyle())
		}
	}
}

func TestRefusedMigrationSaysWhy(t *testing.T) {
	for reply, want := range map[nbd.Reply]string{
		nbd.RepErrPolicy:   "does not take this migration (ERR_POLICY)",
		nbd.RepErrUnknown:  "its size differs (ERR_UNKNOWN)",
		nbd.RepErrInvalid:  "does not understand this migration (ERR_INVALID)",
		nbd.RepErrShutdown: "shutting down (ERR_SHUTDOWN)",
	} {
		_, err := Connect(t.Context(), play(t, func(s *script) {
			s.say([]byte("NBDMAGICIHAVEOPT\x00\x03"))
			s.skip(4)
			s.want([]byte(migrateOpt))
			s.say(nbd.AppendOptionError(nil, nbd.OptMigrate, reply, "another sender is connected"))
			s.want(abortOpt)
			s.wantEnd()
		}), Options{Migration: &testHello})
		var no *RefusedError
		if !errors.As(err, &no) || no.Option != nbd.OptMigrate || no.Reply != reply || !strings.Contains(err.Error(), want) ||
			!strings.Contains(err.Error(), "another sender is connected") {
			t.Errorf("got %v", err)
		}
	}
}

func TestBrokenAnswersToAMigrationAreErrors(t *testing.T) {
	reply := func(opt nbd.Option, rep nbd.Reply, data []byte) []byte {
		return nbd.AppendOptionReply(nil, opt, rep, data)
	}
	otherSize := testAnswer
	otherSize.Size++
	good := nbd.AppendMigrationAnswer(nil, testAnswer)
	for name, c := range map[string]struct {
		says []byte
		want string
	}{
		"another option":   {reply(nbd.OptGo, nbd.RepAck, nil), "GO, which nobody asked for"},
		"ACK alone":        {reply(nbd.OptMigrate, nbd.RepAck, nil), "ACK reply is no answer"},
		"no ACK":           {append(reply(nbd.OptMigrate, nbd.RepMigrate, good), reply(nbd.OptMigrate, nbd.RepMigrate, good)...), "does not end the answer"},
		"ACK with data":    {append(reply(nbd.OptMigrate, nbd.RepMigrate, good), reply(nbd.OptMigrate, nbd.RepAck, good)...), "does not end the answer"},
		"short":            {reply(nbd.OptMigrate, nbd.RepMigrate, good[:31]), "31 bytes long"},
		"another size":     {migrated(otherSize), "1048577"},
		"another version":  {reply(nbd.OptMigrate, nbd.RepMigrate, append([]byte{0, 2}, good[2:]...)), "version 2"},
		"no answer at all": {nil, "closed the connection before the end of the answer to the option MIGRATE"},
	} {
		_, err := Connect(t.Context(), canned{bytes.NewReader(append(nbd.AppendGreeting(nil, 3), c.says...))}, Options{Migration: &testHello})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestHelloThatMayNotTravelIsNotSent(t *testing.T) {
	bad := testHello
	bad.ID = [16]byte{}
	_, err := Connect(t.Context(), play(t, (*script).wantEnd), Options{Migration: &bad})
	if !errors.Is(err, nbd.ErrMalformed) {
		t.Errorf("got %v", err)
	}
}

func TestMigrationHandshakeCutAtAnyByte(t *testing.T) {
	whole := slices.Concat(nbd.AppendGreeting(nil, 3), migrated(testAnswer), exported(1<<20, testFlags))
	for k := range whole {
		_, err := Connect(t.Context(), canned{bytes.NewReader(whole[:k])}, Options{Migration: &testHello})
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d of %d bytes: got %v", k, len(whole), err)
		}
	}
}

func FuzzMigrationServer(f *testing.F) {
	whole := slices.Concat(nbd.AppendGreeting(nil, 3), migrated(testAnswer), exported(1<<20, testFlags))
	f.Add(whole)
	f.Add(whole[:80])
	f.Add(nbd.AppendOptionError(nbd.AppendGreeting(nil, 3), nbd.OptMigrate, nbd.RepErrPolicy, "no"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Connect(t.Context(), canned{bytes.NewReader(b)}, Options{Migration: &testHello})
		if err != nil {
			return
		}
		if a, ok := c.Migration(); ok && (a.Check() != nil || a.Size != testHello.Size) {
			t.Errorf("took %+v for an answer", a)
		}
	})
}

func TestEntrustGoesToOldstyleServersOnly(t *testing.T) {
	c, err := Connect(t.Context(), play(t, func(s *script) {
		s.say(nbd.AppendOldstyleGreeting(nil, 1<<20, testFlags))
		for _, req := range s.requests(1) {
			s.say(nbd.AppendSimpleReply(nil, 0, req.Cookie))
		}
		s.want([]byte("\x25\x60\x95\x13\x00\x01\x00\x00")) // the 32-bit type 65536
		var rest [20]byte
		_, _ = io.ReadFull(s, rest[:])
		if !bytes.Equal(rest[8:], make([]byte, 12)) {
			t.Errorf("got %x", rest)
		}
		s.say(append([]byte("\x67\x44\x66\x98\x00\x00\x00\x00"), rest[:8]...))
		s.wantGoodbye()
	}), Options{Migration: &testHello})
	if err != nil {
		t.Fatal(err)
	}
	p := c.Pipeline(PipelineOptions{})
	l := newLedger(t)
	write, entrust := l.call(nbd.CmdWrite, 0, 4096), l.call(nbd.CmdRead, 0, 0)
	entrust.Request = nbd.EntrustRequest(0)
	prepare := l.call(nbd.CmdPrepare, 0, 0)
	p.Send(write, entrust, prepare)
	if err := p.Disconnect(t.Context()); err != nil || l.of(write) != nil || l.of(entrust) != nil {
		t.Errorf("got %v, %v, %v", err, l.of(write), l.of(entrust))
	}
	if !errors.Is(l.of(prepare), ErrUnsupported) {
		t.Errorf("PREPARE: %v", l.of(prepare))
	}
}
