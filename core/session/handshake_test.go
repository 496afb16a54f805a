// SPDX-License-Identifier: GPL-3.0-or-later

package session

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

	"github.com/flexnbd/flexnbd/core/export"
	"github.com/flexnbd/flexnbd/core/nbd"
)

const testSize = 1 << 20

// haggle starts a session and brings it to its options.
func haggle(t *testing.T) *client {
	t.Helper()
	c := connect(t, Config{Export: open(t, newDisk(testSize))})
	c.greet(fixedNoZeroes)
	return c
}

func TestGoIsNeverPadded(t *testing.T) {
	c := connect(t, Config{Export: open(t, newDisk(testSize))})
	c.greet(nbd.FlagClientFixedNewstyle) // without NO_ZEROES
	c.enter()
	c.alive()
	c.leave()
}

func TestInfoThenGoSayTheSame(t *testing.T) {
	c := haggle(t)
	c.ask(nbd.OptStructuredReply, nil, nbd.RepAck)
	request := nbd.AppendInfoRequest(nil, "", nbd.InfoBlockSize, nbd.InfoType(77))
	var said [2][]byte
	for i, opt := range []nbd.Option{nbd.OptInfo, nbd.OptGo} {
		c.option(opt, request)
		said[i] = append(c.reply(opt, nbd.RepInfo), c.reply(opt, nbd.RepInfo)...)
		c.reply(opt, nbd.RepAck)
	}
	if !bytes.Equal(said[0], said[1]) {
		t.Fatalf("INFO said %x, GO %x", said[0], said[1])
	}
	c.alive()
	c.leave()
}

func TestInformationIsGivenOnce(t *testing.T) {
	c := haggle(t)
	c.option(nbd.OptInfo, nbd.AppendInfoRequest(nil, "", nbd.InfoBlockSize, nbd.InfoBlockSize, nbd.InfoExport, nbd.InfoName, nbd.InfoName))
	var got []nbd.InfoType
	for range 3 {
		info, err := nbd.ParseInfo(c.reply(nbd.OptInfo, nbd.RepInfo))
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, info.Type)
	}
	c.reply(nbd.OptInfo, nbd.RepAck)
	if got[0] != nbd.InfoExport || got[1] == got[2] {
		t.Fatalf("got the information %v", got)
	}
}

func TestBlockSizesAreThoseOfTheStore(t *testing.T) {
	d := newDisk(testSize)
	d.info.PreferredBlock, d.info.MinBlock = 64<<10, 4096
	c := connect(t, Config{Export: open(t, d)})
	c.greet(fixedNoZeroes)
	c.option(nbd.OptGo, nbd.AppendInfoRequest(nil, "", nbd.InfoBlockSize))
	c.reply(nbd.OptGo, nbd.RepInfo)
	info, err := nbd.ParseInfo(c.reply(nbd.OptGo, nbd.RepInfo))
	want := nbd.BlockSizes{Minimum: 1, Preferred: 64 << 10, MaxPayload: 1 << 30}
	if err != nil || info.BlockSizes != want {
		t.Fatalf("got %+v, %v, want %+v", info.BlockSizes, err, want)
	}
}

func TestFlagsFollowTheExport(t *testing.T) {
	const always = nbd.FlagHasFlags | nbd.FlagSendFlush | nbd.FlagSendFUA
	for _, test := range []struct {
		readOnly, structured bool
		want                 nbd.TransmissionFlags
	}{
		{false, false, always | nbd.FlagSendTrim | nbd.FlagSendWriteZeroes},
		{false, true, always | nbd.FlagSendTrim | nbd.FlagSendWriteZeroes | nbd.FlagSendDF},
		{true, false, always | nbd.FlagReadOnly},
		{true, true, always | nbd.FlagReadOnly | nbd.FlagSendDF},
	} {
		c := connect(t, Config{Export: openWith(t, newDisk(testSize), export.Options{ReadOnly: test.readOnly})})
		c.greet(fixedNoZeroes)
		if test.structured {
			c.structure()
		}
		if got := c.enter(); got.Flags != test.want || got.Size != testSize {
			t.Errorf("%+v: got %v of %d bytes", test, got.Flags, got.Size)
		}
	}
}

func TestAbortIsAcknowledged(t *testing.T) {
	for _, data := range [][]byte{nil, []byte("data does not matter"), make([]byte, nbd.MaxOptionLength+1)} {
		c := haggle(t)
		c.ask(nbd.OptAbort, data, nbd.RepAck)
		c.wantEnd()
		_ = c.Close()
		c.wantResult(true)
	}
}

func TestAbortOfAClientThatHasGone(t *testing.T) {
	c := haggle(t)
	c.option(nbd.OptAbort, nil)
	_ = c.Close()
	c.wantResult(true)
}

func TestLeavingDuringTheHandshake(t *testing.T) {
	for _, said := range []string{"", "\x00\x00\x00\x03"} { // between messages
		c := connect(t, Config{Export: open(t, newDisk(testSize))})
		c.take(nbd.GreetingSize)
		c.tell([]byte(said))
		c.halfClose()
		c.wantEnd()
		c.wantResult(true)
	}
	for _, said := range []string{"\x00\x00", "\x00\x00\x00\x03IHAVE", "\x00\x00\x00\x03IHAVEOPT\x00\x00\x00\x07\x00\x00\x00\x06\x00"} { // in the middle of one
		c := connect(t, Config{Export: open(t, newDisk(testSize))})
		c.take(nbd.GreetingSize)
		c.tell([]byte(said))
		c.halfClose()
		c.wantEnd()
		c.wantResult(false)
	}
}

// TestRefusedOptions goes through what an option can be refused for. The session
// has to live on, in step.
func TestRefusedOptions(t *testing.T) {
	long := strings.Repeat("x", nbd.MaxString)
	for _, test := range []struct {
		name       string
		structured bool
		opt        nbd.Option
		data       []byte
		want       nbd.Reply
	}{
		{"LIST with data", false, nbd.OptList, []byte("x"), nbd.RepErrInvalid},
		{"LIST with much data", false, nbd.OptList, make([]byte, nbd.MaxOptionLength+1), nbd.RepErrInvalid},
		{"STRUCTURED_REPLY with data", false, nbd.OptStructuredReply, []byte("x"), nbd.RepErrInvalid},
		{"STARTTLS", false, nbd.OptStartTLS, nil, nbd.RepErrUnsup},
		{"STARTTLS with data", false, nbd.OptStartTLS, []byte("x"), nbd.RepErrInvalid},
		{"EXTENDED_HEADERS", true, nbd.OptExtendedHeaders, nil, nbd.RepErrUnsup},
		{"EXTENDED_HEADERS with data", true, nbd.OptExtendedHeaders, []byte("x"), nbd.RepErrInvalid},
		{"PEEK_EXPORT", false, nbd.OptPeekExport, nil, nbd.RepErrUnsup},
		{"unknown", false, 0x12345678, nil, nbd.RepErrUnsup},
		{"unknown with data", false, 0x12345678, make([]byte, 1000), nbd.RepErrUnsup},
		{"unknown with much data", false, 0xffffffff, make([]byte, 3*nbd.MaxOptionLength), nbd.RepErrUnsup},
		{"option 0", false, 0, []byte("IHAVEOPT"), nbd.RepErrUnsup},
		{"GO with too much data", false, nbd.OptGo, make([]byte, nbd.MaxOptionLength+1), nbd.RepErrTooBig},
		{"GO without data", false, nbd.OptGo, nil, nbd.RepErrInvalid},
		{"GO, name longer than the data", false, nbd.OptGo, []byte("\x00\x00\x00\x01\x00\x00"), nbd.RepErrInvalid},
		{"GO, length of name overflows", false, nbd.OptGo, []byte("\xff\xff\xff\xff\x00\x00"), nbd.RepErrInvalid},
		{"GO, requests missing", false, nbd.OptGo, []byte("\x00\x00\x00\x00\x00\x01"), nbd.RepErrInvalid},
		{"GO, more than was announced", false, nbd.OptGo, []byte("\x00\x00\x00\x00\x00\x00!"), nbd.RepErrInvalid},
		{"GO for another export", false, nbd.OptGo, nbd.AppendInfoRequest(nil, "other"), nbd.RepErrUnknown},
		{"INFO for another export", false, nbd.OptInfo, nbd.AppendInfoRequest(nil, "other"), nbd.RepErrUnknown},
		{"GO, longest name", false, nbd.OptGo, nbd.AppendInfoRequest(nil, long), nbd.RepErrUnknown},
		{"GO, name too long", false, nbd.OptGo, nbd.AppendInfoRequest(nil, long+"x"), nbd.RepErrInvalid},
		{"GO, NUL in name", false, nbd.OptGo, nbd.AppendInfoRequest(nil, "a\x00b"), nbd.RepErrInvalid},
		{"LIST_META_CONTEXT too early", false, nbd.OptListMetaContext, nbd.AppendMetaContextRequest(nil, ""), nbd.RepErrInvalid},
		{"SET_META_CONTEXT too early", false, nbd.OptSetMetaContext, nbd.AppendMetaContextRequest(nil, "", "base:allocation"), nbd.RepErrInvalid},
		{"LIST_META_CONTEXT for another export", true, nbd.OptListMetaContext, nbd.AppendMetaContextRequest(nil, "other"), nbd.RepErrUnknown},
		{"LIST_META_CONTEXT with a query too long", true, nbd.OptListMetaContext, nbd.AppendMetaContextRequest(nil, "", long+"x"), nbd.RepErrInvalid},
		{"SET_META_CONTEXT, query cut off", true, nbd.OptSetMetaContext, nbd.AppendMetaContextRequest(nil, "", "base:allocation")[:20], nbd.RepErrInvalid},
		{"SET_META_CONTEXT without data", true, nbd.OptSetMetaContext, nil, nbd.RepErrInvalid},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := haggle(t)
			if test.structured {
				c.ask(nbd.OptStructuredReply, nil, nbd.RepAck)
			}
			c.ask(test.opt, test.data, test.want)
			c.enter()
			c.alive()
			c.leave()
		})
	}
}

// TestEndsOfTheHandshake goes through what a session ends for at once.
func TestEndsOfTheHandshake(t *testing.T) {
	const fixed, plain = "\x00\x00\x00\x03", "\x00\x00\x00\x00"
	option := func(opt nbd.Option, data string) string { return string(nbd.AppendOption(nil, opt, []byte(data))) }
	for name, said := range map[string]string{
		"unknown client flag":            "\x00\x00\x00\x07",
		"high client flag":               "\x80\x00\x00\x01",
		"wrong option magic":             fixed + "IHAVEOPX\x00\x00\x00\x07\x00\x00\x00\x00",
		"GO, not fixed":                  plain + option(nbd.OptGo, "\x00\x00\x00\x00\x00\x00"),
		"LIST, not fixed":                plain + option(nbd.OptList, ""),
		"ABORT, not fixed":               plain + option(nbd.OptAbort, ""),
		"long option, not fixed":         plain + option(nbd.OptGo, strings.Repeat("x", nbd.MaxOptionLength+1)),
		"EXPORT_NAME of another export":  fixed + option(nbd.OptExportName, "other"),
		"EXPORT_NAME, name too long":     fixed + option(nbd.OptExportName, strings.Repeat("x", nbd.MaxString+1)),
		"EXPORT_NAME, far too long":      fixed + option(nbd.OptExportName, strings.Repeat("x", nbd.MaxOptionLength+1)),
		"EXPORT_NAME with a NUL":         fixed + option(nbd.OptExportName, "\x00"),
		"EXPORT_NAME of another, at old": plain + option(nbd.OptExportName, "other"),
	} {
		t.Run(name, func(t *testing.T) {
			c := connect(t, Config{Export: open(t, newDisk(testSize))})
			c.take(nbd.GreetingSize)
			c.tell([]byte(said))
			c.wantEnd()
			c.wantResult(false)
		})
	}
}

func TestTooManyOptions(t *testing.T) {
	c := haggle(t)
	for range nbd.MaxOptions - 1 {
		c.ask(99, nil, nbd.RepErrUnsup)
	}
	c.enter() // the last one that is heard
	c.alive()

	c = haggle(t)
	for range nbd.MaxOptions {
		c.ask(99, nil, nbd.RepErrUnsup)
	}
	c.wantEnd()
	c.wantResult(false)
}

func TestMetaContexts(t *testing.T) {
	list, set := nbd.OptListMetaContext, nbd.OptSetMetaContext
	for _, test := range []struct {
		name    string
		opt     nbd.Option
		queries []string
		want    bool
	}{
		{"list without queries", list, nil, true},
		{"list by name", list, []string{"base:allocation"}, true},
		{"list by wildcard", list, []string{"base:"}, true},
		{"list of an unknown leaf", list, []string{"base:other"}, false},
		{"list of an unknown namespace", list, []string{"qemu:", "x-y:z", "nonsense"}, false},
		{"set without queries", set, nil, false},
		{"set by name", set, []string{"base:allocation"}, true},
		{"set twice the same", set, []string{"base:allocation", "base:allocation"}, true},
		{"set among unknown ones", set, []string{"qemu:dirty-bitmap:x", "base:allocation"}, true},
		{"set by wildcard", set, []string{"base:"}, false},
		{"set of an unknown leaf", set, []string{"base:alloc"}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := haggle(t)
			c.ask(nbd.OptStructuredReply, nil, nbd.RepAck)
			c.structured = true
			c.option(test.opt, nbd.AppendMetaContextRequest(nil, "", test.queries...))
			if test.want {
				id, name, err := nbd.ParseMetaContext(c.reply(test.opt, nbd.RepMetaContext))
				if err != nil || name != nbd.BaseAllocation || (id != 0) != (test.opt == set) {
					t.Fatalf("got context %d %q, %v", id, name, err)
				}
			}
			c.reply(test.opt, nbd.RepAck)
			c.enter()
			c.wantBlockStatus(test.want && test.opt == set)
			c.leave()
		})
	}
}

func (c *client) wantBlockStatus(available bool) {
	c.t.Helper()
	if got := c.do(nbd.CmdBlockStatus, 0, 0, 4096); (got.errno == 0) != available {
		c.t.Fatalf("BLOCK_STATUS: %v %s, should be available: %v", got.errno, got.message, available)
	} else if !available && got.errno != nbd.EINVAL {
		c.t.Fatalf("BLOCK_STATUS that is not available: %v", got.errno)
	}
}

// TestSetMetaContextReplaces checks that what was selected is gone, whatever
// comes of the next selection.
func TestSetMetaContextReplaces(t *testing.T) {
	for name, test := range map[string]struct {
		data []byte
		want nbd.Reply
	}{
		"by nothing":       {nbd.AppendMetaContextRequest(nil, ""), nbd.RepAck},
		"by unknown ones":  {nbd.AppendMetaContextRequest(nil, "", "x-y:z"), nbd.RepAck},
		"of other export":  {nbd.AppendMetaContextRequest(nil, "other", "base:allocation"), nbd.RepErrUnknown},
		"by a broken one":  {[]byte("\x00"), nbd.RepErrInvalid},
		"by too long data": {make([]byte, nbd.MaxOptionLength+1), nbd.RepErrTooBig},
	} {
		t.Run(name, func(t *testing.T) {
			c := haggle(t)
			c.structure()
			c.ask(nbd.OptSetMetaContext, test.data, test.want)
			c.enter()
			c.wantBlockStatus(false)
		})
	}
	t.Run("a list does not", func(t *testing.T) {
		c := haggle(t)
		c.structure()
		c.option(nbd.OptListMetaContext, nbd.AppendMetaContextRequest(nil, "", "x-y:z"))
		c.reply(nbd.OptListMetaContext, nbd.RepAck)
		c.enter()
		c.wantBlockStatus(true)
	})
}

func TestOptionsWhileStopping(t *testing.T) {
	stopping := make(chan struct{})
	c := connect(t, Config{Export: open(t, newDisk(testSize)), Stopping: stopping})
	c.greet(fixedNoZeroes)
	c.ask(nbd.OptStructuredReply, nil, nbd.RepAck)
	close(stopping)
	for opt, data := range map[nbd.Option][]byte{
		nbd.OptGo:             nbd.AppendInfoRequest(nil, ""),
		nbd.OptInfo:           nbd.AppendInfoRequest(nil, ""),
		nbd.OptList:           nil,
		nbd.OptSetMetaContext: nbd.AppendMetaContextRequest(nil, ""),
		99:                    nil,
	} {
		c.ask(opt, data, nbd.RepErrShutdown)
	}
	c.ask(nbd.OptAbort, nil, nbd.RepAck)
	c.wantEnd()
	_ = c.Close()
	c.wantResult(true)
}

func TestExportNameWhileStopping(t *testing.T) {
	stopping := make(chan struct{})
	close(stopping)
	c := connect(t, Config{Export: open(t, newDisk(testSize)), Stopping: stopping})
	c.greet(fixedNoZeroes)
	c.option(nbd.OptExportName, nil)
	c.wantEnd()
	c.wantResult(false)
}

// timed plays a client on a clock of its own and returns when the session ended.
func timed(t *testing.T, config Config, play func(net.Conn)) (took time.Duration, err error) {
	synctest.Test(t, func(t *testing.T) {
		config.Export = open(t, newDisk(testSize))
		near, far := net.Pipe()
		c := connectOver(t, context.Background(), near, far, config)
		_ = near.SetDeadline(time.Time{})
		began := time.Now()
		played := make(chan struct{})
		go func() { play(near); close(played) }()
		err = <-c.done
		took = time.Since(began)
		_ = near.Close()
		<-played
	})
	return took, err
}

func TestSilentHandshakeIsCut(t *testing.T) {
	for _, limit := range []time.Duration{0, 3 * time.Second} {
		want := limit
		if limit == 0 {
			want = DefaultHandshakeTimeout
		}
		took, err := timed(t, Config{HandshakeTimeout: limit}, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
		if took != want || err == nil {
			t.Errorf("cut after %v with %v, want %v", took, err, want)
		}
	}
}

func TestTricklingHandshakeIsCut(t *testing.T) {
	said := append(nbd.AppendClientFlags(nil, fixedNoZeroes), nbd.AppendOption(nil, nbd.OptGo, make([]byte, 1000))...)
	took, err := timed(t, Config{}, func(c net.Conn) {
		_, _ = io.ReadFull(c, make([]byte, nbd.GreetingSize))
		for i := range said {
			time.Sleep(900 * time.Millisecond)
			if _, err := c.Write(said[i : i+1]); err != nil {
				return
			}
		}
	})
	if took != DefaultHandshakeTimeout || err == nil {
		t.Errorf("cut after %v with %v", took, err)
	}
}

// TestDeafHandshakeIsCut has a client that does not even take the greeting.
func TestDeafHandshakeIsCut(t *testing.T) {
	took, err := timed(t, Config{}, func(net.Conn) {})
	if took != DefaultHandshakeTimeout || err == nil {
		t.Errorf("cut after %v with %v", took, err)
	}
}

func TestStoppingServerDoesNotWaitForAHandshake(t *testing.T) {
	stopping := make(chan struct{})
	close(stopping)
	took, err := timed(t, Config{Stopping: stopping}, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	if took != farewellTime || err != nil {
		t.Errorf("ended after %v with %v", took, err)
	}
}

func TestHandshakeTimeoutEndsWithTheHandshake(t *testing.T) {
	took, err := timed(t, Config{}, func(conn net.Conn) {
		defer conn.Close()
		in := make([]byte, nbd.GreetingSize)
		_, _ = io.ReadFull(conn, in)
		_, _ = conn.Write(nbd.AppendOption(nbd.AppendClientFlags(nil, fixedNoZeroes), nbd.OptExportName, nil))
		_, _ = io.ReadFull(conn, in[:nbd.ExportNameReplySize])
		time.Sleep(time.Hour)
		_, _ = conn.Write(nbd.AppendRequest(nil, nbd.Request{Command: nbd.CmdFlush}))
		_, _ = io.ReadFull(conn, in[:nbd.SimpleReplySize])
		_, _ = conn.Write(nbd.AppendRequest(nil, nbd.Request{Command: nbd.CmdDisc}))
	})
	if took != time.Hour || err != nil {
		t.Errorf("ended after %v with %v", took, err)
	}
}

func TestCutDuringTheHandshake(t *testing.T) {
	ctx, cut := context.WithCancel(context.Background())
	c := connectWith(t, ctx, Config{Export: open(t, newDisk(testSize))})
	c.greet(fixedNoZeroes)
	cut()
	if err := c.result(); err == nil || errors.Is(err, net.ErrClosed) {
		t.Fatalf("Serve returned %v", err)
	}
}
