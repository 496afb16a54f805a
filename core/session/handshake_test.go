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

func TestChecklist05GoIsNeverPadded(t *testing.T) {
	c := connect(t, Config{Export: open(t, newDisk(testSize))})
	c.greet(nbd.FlagClientFixedNewstyle) // without NO_ZEROES
	c.enter()
	c.alive()
	c.leave()
}

func TestChecklist08InfoThenGoSayTheSame(t *testing.T) {
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

func TestChecklist08InformationIsGivenOnce(t *testing.T) {
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

func TestChecklist21BlockSizesAreThoseOfTheStore(t *testing.T) {
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
	const (
		always   = nbd.FlagHasFlags | nbd.FlagSendFlush | nbd.FlagSendFUA | nbd.FlagCanMultiConn | nbd.FlagSendCache
		writable = always | nbd.FlagSendTrim | nbd.FlagSendWriteZeroes
	)
	for _, test := range []struct {
		readOnly, structured, fast bool
		want                       nbd.TransmissionFlags
	}{
		{false, false, false, writable},
		{false, true, false, writable | nbd.FlagSendDF},
		{false, false, true, writable | nbd.FlagSendFastZero},
		{true, false, true, always | nbd.FlagReadOnly},
		{true, true, true, always | nbd.FlagReadOnly | nbd.FlagSendDF},
	} {
		d := newDisk(testSize)
		d.info.CanFast = test.fast
		c := connect(t, Config{Export: openWith(t, d, export.Options{ReadOnly: test.readOnly})})
		c.greet(fixedNoZeroes)
		if test.structured {
			c.structure()
		}
		if got := c.enter(); got.Flags != test.want || got.Size != testSize {
			t.Errorf("%+v: got %v of %d bytes", test, got.Flags, got.Size)
		}
	}
}

func TestChecklist06AbortIsAcknowledged(t *testing.T) {
	for _, data := range [][]byte{nil, []byte("data does not matter"), make([]byte, nbd.MaxOptionLength+1)} {
		c := haggle(t)
		c.ask(nbd.OptAbort, data, nbd.RepAck)
		c.wantEnd()
		_ = c.Close()
		c.wantResult(true)
	}
}

func TestChecklist06AbortOfAClientThatHasGone(t *testing.T) {
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

// refusedOption is something that an option is refused for.
type refusedOption struct {
	name string
	opt  nbd.Option
	data []byte
	want nbd.Reply
}

// refused sends each option, before and after asking for structured replies. The
// session has to live on, in step.
func refused(t *testing.T, tests ...refusedOption) {
	t.Helper()
	both(t, func(t *testing.T, structured bool) {
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				c := haggle(t)
				if structured {
					c.ask(nbd.OptStructuredReply, nil, nbd.RepAck)
				}
				c.ask(test.opt, test.data, test.want)
				c.enter()
				c.alive()
				c.leave()
			})
		}
	})
}

// longest is the longest string that the protocol allows.
var longest = strings.Repeat("x", nbd.MaxString)

func TestChecklist03UnknownOptions(t *testing.T) {
	refused(t,
		refusedOption{"without data", 0x12345678, nil, nbd.RepErrUnsup},
		refusedOption{"with data", 0x12345678, make([]byte, 1000), nbd.RepErrUnsup},
		refusedOption{"with data like an option", 0, []byte("IHAVEOPT"), nbd.RepErrUnsup},
		refusedOption{"with much data", 0xffffffff, make([]byte, 3*nbd.MaxOptionLength), nbd.RepErrUnsup},
		refusedOption{"PEEK_EXPORT", nbd.OptPeekExport, nil, nbd.RepErrUnsup},
		refusedOption{"STARTTLS", nbd.OptStartTLS, nil, nbd.RepErrUnsup},
		refusedOption{"EXTENDED_HEADERS", nbd.OptExtendedHeaders, nil, nbd.RepErrUnsup},
	)
}

func TestChecklist03LengthIsCapped(t *testing.T) {
	refused(t,
		refusedOption{"GO", nbd.OptGo, make([]byte, nbd.MaxOptionLength+1), nbd.RepErrTooBig},
		refusedOption{"INFO", nbd.OptInfo, make([]byte, 3*nbd.MaxOptionLength), nbd.RepErrTooBig},
		refusedOption{"SET_META_CONTEXT", nbd.OptSetMetaContext, make([]byte, nbd.MaxOptionLength+1), nbd.RepErrTooBig},
	)
}

func TestChecklist07OptionsThatTakeNoData(t *testing.T) {
	var tests []refusedOption
	for _, opt := range []nbd.Option{nbd.OptList, nbd.OptStructuredReply, nbd.OptExtendedHeaders, nbd.OptStartTLS} {
		tests = append(tests,
			refusedOption{opt.String(), opt, []byte("x"), nbd.RepErrInvalid},
			refusedOption{opt.String() + " with much data", opt, make([]byte, nbd.MaxOptionLength+1), nbd.RepErrInvalid})
	}
	refused(t, tests...)
}

// TestChecklist07AndNothingMore checks that such an option is not carried out.
func TestChecklist07AndNothingMore(t *testing.T) {
	c := haggle(t)
	c.ask(nbd.OptStructuredReply, []byte("x"), nbd.RepErrInvalid)
	if flags := c.enter().Flags; flags.Has(nbd.FlagSendDF) {
		t.Errorf("structured replies are agreed on: %v", flags)
	}
	c.must(nbd.CmdRead, 0, 0, 512)
	c.leave()
}

func TestChecklist08BrokenInfoAndGo(t *testing.T) {
	var tests []refusedOption
	for _, opt := range []nbd.Option{nbd.OptGo, nbd.OptInfo} {
		for name, test := range map[string]struct {
			data string
			want nbd.Reply
		}{
			"without data":                {"", nbd.RepErrInvalid},
			"name longer than the data":   {"\x00\x00\x00\x01\x00\x00", nbd.RepErrInvalid},
			"name over the requests":      {"\x00\x00\x00\x02\x00\x01\x00\x03", nbd.RepErrInvalid},
			"length of name overflows":    {"\xff\xff\xff\xff\x00\x00", nbd.RepErrInvalid},
			"requests missing":            {"\x00\x00\x00\x00\x00\x01", nbd.RepErrInvalid},
			"more than was announced":     {"\x00\x00\x00\x00\x00\x00!", nbd.RepErrInvalid},
			"another export":              {"\x00\x00\x00\x05other\x00\x00", nbd.RepErrUnknown},
			"another export, and unknown": {"\x00\x00\x00\x05other\x00\x01\xff\xff", nbd.RepErrUnknown},
		} {
			tests = append(tests, refusedOption{opt.String() + ", " + name, opt, []byte(test.data), test.want})
		}
	}
	refused(t, tests...)
}

func TestChecklist09Strings(t *testing.T) {
	refused(t,
		refusedOption{"longest name", nbd.OptGo, nbd.AppendInfoRequest(nil, longest), nbd.RepErrUnknown},
		refusedOption{"name too long", nbd.OptGo, nbd.AppendInfoRequest(nil, longest+"x"), nbd.RepErrInvalid},
		refusedOption{"NUL in a name", nbd.OptInfo, nbd.AppendInfoRequest(nil, "a\x00b"), nbd.RepErrInvalid},
		refusedOption{"not UTF-8", nbd.OptInfo, nbd.AppendInfoRequest(nil, "a\xff"), nbd.RepErrInvalid},
	)
	c := haggle(t)
	c.ask(nbd.OptStructuredReply, nil, nbd.RepAck)
	for _, opt := range []nbd.Option{nbd.OptListMetaContext, nbd.OptSetMetaContext} {
		c.ask(opt, nbd.AppendMetaContextRequest(nil, longest+"x"), nbd.RepErrInvalid)
		c.ask(opt, nbd.AppendMetaContextRequest(nil, "", longest+"x"), nbd.RepErrInvalid)
		c.ask(opt, nbd.AppendMetaContextRequest(nil, "", "base:\x00"), nbd.RepErrInvalid)
		c.ask(opt, nbd.AppendMetaContextRequest(nil, "", longest), nbd.RepAck)
	}
	c.enter()
}

func TestChecklist11MetaContextsNeedStructuredReplies(t *testing.T) {
	c := haggle(t)
	c.ask(nbd.OptListMetaContext, nbd.AppendMetaContextRequest(nil, ""), nbd.RepErrInvalid)
	c.ask(nbd.OptSetMetaContext, nbd.AppendMetaContextRequest(nil, "", "base:allocation"), nbd.RepErrInvalid)
	c.enter()
	c.wantBlockStatus(false)
	c.leave()
}

func TestChecklist11BrokenMetaContexts(t *testing.T) {
	c := haggle(t)
	c.ask(nbd.OptStructuredReply, nil, nbd.RepAck)
	c.ask(nbd.OptListMetaContext, nbd.AppendMetaContextRequest(nil, "other"), nbd.RepErrUnknown)
	c.ask(nbd.OptSetMetaContext, nbd.AppendMetaContextRequest(nil, "", "base:allocation")[:20], nbd.RepErrInvalid)
	c.ask(nbd.OptSetMetaContext, nil, nbd.RepErrInvalid)
	c.enter()
	c.alive()
	c.leave()
}

// endsFor checks that a session ends at once for what its client says.
func endsFor(t *testing.T, said map[string]string) {
	t.Helper()
	for name, said := range said {
		t.Run(name, func(t *testing.T) {
			c := connect(t, Config{Export: open(t, newDisk(testSize))})
			c.take(nbd.GreetingSize)
			c.tell([]byte(said))
			c.wantEnd()
			c.wantResult(false)
		})
	}
}

const (
	fixedFlags = "\x00\x00\x00\x03"
	plainFlags = "\x00\x00\x00\x00"
)

func optionOf(opt nbd.Option, data string) string {
	return string(nbd.AppendOption(nil, opt, []byte(data)))
}

func TestChecklist02UnknownClientFlags(t *testing.T) {
	endsFor(t, map[string]string{
		"unknown": "\x00\x00\x00\x07",
		"high":    "\x80\x00\x00\x01",
		"alone":   "\x00\x00\x00\x04",
	})
	for flags := range nbd.ClientFlags(4) { // those that were offered
		c := connect(t, Config{Export: open(t, newDisk(testSize))})
		c.greet(flags)
		c.option(nbd.OptExportName, nil)
		c.take(nbd.ExportNameReplySize)
		if flags&nbd.FlagClientNoZeroes == 0 {
			c.take(nbd.ExportNamePadding)
		}
		c.alive()
		c.leave()
	}
}

func TestChecklist04NotFixedMeansExportNameOnly(t *testing.T) {
	endsFor(t, map[string]string{
		"GO":            plainFlags + optionOf(nbd.OptGo, "\x00\x00\x00\x00\x00\x00"),
		"LIST":          plainFlags + optionOf(nbd.OptList, ""),
		"ABORT":         plainFlags + optionOf(nbd.OptAbort, ""),
		"unknown":       plainFlags + optionOf(99, ""),
		"a long option": plainFlags + optionOf(nbd.OptGo, strings.Repeat("x", nbd.MaxOptionLength+1)),
	})
}

func TestChecklist05ExportNameThatFailsCloses(t *testing.T) {
	endsFor(t, map[string]string{
		"another export":            fixedFlags + optionOf(nbd.OptExportName, "other"),
		"another export, not fixed": plainFlags + optionOf(nbd.OptExportName, "other"),
		"name too long":             fixedFlags + optionOf(nbd.OptExportName, longest+"x"),
		"far too long":              fixedFlags + optionOf(nbd.OptExportName, strings.Repeat("x", nbd.MaxOptionLength+1)),
		"a NUL":                     fixedFlags + optionOf(nbd.OptExportName, "\x00"),
	})
}

func TestWrongOptionMagicEndsTheSession(t *testing.T) {
	endsFor(t, map[string]string{"wrong magic": fixedFlags + "IHAVEOPX\x00\x00\x00\x07\x00\x00\x00\x00"})
}

func TestChecklist03TooManyOptions(t *testing.T) {
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

func TestChecklist11MetaContexts(t *testing.T) {
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

// TestChecklist11SetMetaContextReplaces checks that what was selected is gone, whatever
// comes of the next selection.
func TestChecklist11SetMetaContextReplaces(t *testing.T) {
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

func TestChecklist23OptionsWhileStopping(t *testing.T) {
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

func TestChecklist23ExportNameWhileStopping(t *testing.T) {
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
	t.Helper()
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

func TestChecklist03SilentHandshakeIsCut(t *testing.T) {
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

func TestChecklist03TricklingHandshakeIsCut(t *testing.T) {
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

// TestChecklist03DeafHandshakeIsCut has a client that does not even take the greeting.
func TestChecklist03DeafHandshakeIsCut(t *testing.T) {
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
