// SPDX-License-Identifier: GPL-3.0-or-later

package nbd

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

// unhex turns bytes written by hand, with spaces between the fields, into bytes.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The bytes were written from the protocol's text, field by field; none of them
// comes out of this package.
func TestEncodersMatchTheProtocolByteForByte(t *testing.T) {
	const cookie = 0x1122334455667788
	for _, c := range []struct {
		name string
		got  []byte
		want string
	}{
		{"greeting", AppendGreeting(nil, FlagFixedNewstyle|FlagNoZeroes),
			"4e42444d41474943 49484156454f5054 0003"},
		{"client flags", AppendClientFlags(nil, FlagClientFixedNewstyle|FlagClientNoZeroes),
			"00000003"},
		{"option EXPORT_NAME", AppendOption(nil, OptExportName, []byte("abc")),
			"49484156454f5054 00000001 00000003 616263"},
		{"option ABORT", AppendOption(nil, OptAbort, nil),
			"49484156454f5054 00000002 00000000"},
		{"option GO", AppendOption(nil, OptGo, AppendInfoRequest(nil, "d0", InfoBlockSize, InfoName)),
			"49484156454f5054 00000007 0000000c 00000002 6430 0002 0003 0001"},
		{"option INFO without requests", AppendOption(nil, OptInfo, AppendInfoRequest(nil, "")),
			"49484156454f5054 00000006 00000006 00000000 0000"},
		{"option SET_META_CONTEXT", AppendOption(nil, OptSetMetaContext, AppendMetaContextRequest(nil, "x", BaseAllocation)),
			"49484156454f5054 0000000a 0000001c 00000001 78 00000001 0000000f 626173653a616c6c6f636174696f6e"},
		{"reply ACK to STRUCTURED_REPLY", AppendOptionReply(nil, OptStructuredReply, RepAck, nil),
			"0003e889045565a9 00000008 00000001 00000000"},
		{"reply SERVER", AppendOptionReply(nil, OptList, RepServer, AppendRepServer(nil, "ab", "c")),
			"0003e889045565a9 00000003 00000002 00000007 00000002 6162 63"},
		{"reply INFO EXPORT", AppendOptionReply(nil, OptGo, RepInfo, AppendInfoExport(nil, 1<<20, FlagHasFlags|FlagSendFlush|FlagSendFUA)),
			"0003e889045565a9 00000007 00000003 0000000c 0000 0000000000100000 000d"},
		{"reply INFO BLOCK_SIZE", AppendOptionReply(nil, OptGo, RepInfo, AppendInfoBlockSize(nil, BlockSizes{1, 4096, 32 << 20})),
			"0003e889045565a9 00000007 00000003 0000000e 0003 00000001 00001000 02000000"},
		{"reply INFO NAME", AppendInfoName(nil, "n"), "0001 6e"},
		{"reply INFO DESCRIPTION", AppendInfoDescription(nil, "d"), "0002 64"},
		{"reply META_CONTEXT", AppendOptionReply(nil, OptSetMetaContext, RepMetaContext, AppendMetaContext(nil, 7, "base:x")),
			"0003e889045565a9 0000000a 00000004 0000000a 00000007 626173653a78"},
		{"reply ERR_UNKNOWN", AppendOptionError(nil, OptGo, RepErrUnknown, "no"),
			"0003e889045565a9 00000007 80000006 00000002 6e6f"},
		{"EXPORT_NAME answered, no zeroes", AppendExportNameReply(nil, 512, FlagHasFlags, true),
			"0000000000000200 0001"},
		{"EXPORT_NAME answered", AppendExportNameReply(nil, 512, FlagHasFlags, false),
			"0000000000000200 0001" + strings.Repeat("00", 124)},
		{"request", AppendRequest(nil, Request{CmdFlagFUA, CmdWrite, cookie, 0x123456789, 0x1000}),
			"25609513 0001 0001 1122334455667788 0000000123456789 00001000"},
		{"request WRITE_ZEROES", AppendRequest(nil, Request{CmdFlagNoHole | CmdFlagFastZero, CmdWriteZeroes, cookie, 0, 0xffffffff}),
			"25609513 0012 0006 1122334455667788 0000000000000000 ffffffff"},
		{"simple reply", AppendSimpleReply(nil, 0, cookie),
			"67446698 00000000 1122334455667788"},
		{"simple reply ENOSPC", AppendSimpleReply(nil, ENOSPC, cookie),
			"67446698 0000001c 1122334455667788"},
		{"chunk NONE", AppendNoneChunk(nil, cookie),
			"668e33ef 0001 0000 1122334455667788 00000000"},
		{"chunk OFFSET_DATA", AppendOffsetData(nil, 0, cookie, 0x200, 512),
			"668e33ef 0000 0001 1122334455667788 00000208 0000000000000200"},
		{"chunk OFFSET_HOLE", AppendOffsetHole(nil, ChunkFlagDone, cookie, 0x400, 0x800),
			"668e33ef 0001 0002 1122334455667788 0000000c 0000000000000400 00000800"},
		{"chunk BLOCK_STATUS", AppendBlockStatus(nil, ChunkFlagDone, cookie, 1, []Descriptor{{0x1000, StateHole | StateZero}, {0x2000, 0}}),
			"668e33ef 0001 0005 1122334455667788 00000014 00000001 00001000 00000003 00002000 00000000"},
		{"chunk ERROR", AppendErrorChunk(nil, ChunkFlagDone, cookie, EIO, "bad"),
			"668e33ef 0001 8001 1122334455667788 00000009 00000005 0003 626164"},
		{"chunk ERROR without a text", AppendErrorChunk(nil, ChunkFlagDone, cookie, ESHUTDOWN, ""),
			"668e33ef 0001 8001 1122334455667788 00000006 0000006c 0000"},
		{"chunk ERROR_OFFSET", AppendErrorOffsetChunk(nil, 0, cookie, EIO, "bad", 0x300),
			"668e33ef 0000 8002 1122334455667788 00000011 00000005 0003 626164 0000000000000300"},
	} {
		if want := unhex(t, c.want); !bytes.Equal(c.got, want) {
			t.Errorf("%s:\n got %x\nwant %x", c.name, c.got, want)
		}
	}
}

func TestNumbersAreTheProtocols(t *testing.T) {
	for _, c := range []struct {
		name      string
		got, want uint64
	}{
		{"OptList", uint64(OptList), 3}, {"OptStartTLS", uint64(OptStartTLS), 5},
		{"OptListMetaContext", uint64(OptListMetaContext), 9}, {"OptExtendedHeaders", uint64(OptExtendedHeaders), 11},
		{"RepErrUnsup", uint64(RepErrUnsup), 0x80000001}, {"RepErrPolicy", uint64(RepErrPolicy), 0x80000002},
		{"RepErrInvalid", uint64(RepErrInvalid), 0x80000003}, {"RepErrPlatform", uint64(RepErrPlatform), 0x80000004},
		{"RepErrTLSReqd", uint64(RepErrTLSReqd), 0x80000005}, {"RepErrShutdown", uint64(RepErrShutdown), 0x80000007},
		{"RepErrBlockSizeReqd", uint64(RepErrBlockSizeReqd), 0x80000008}, {"RepErrTooBig", uint64(RepErrTooBig), 0x80000009},
		{"RepErrExtHeaderReqd", uint64(RepErrExtHeaderReqd), 0x8000000a},
		{"FlagReadOnly", uint64(FlagReadOnly), 2}, {"FlagRotational", uint64(FlagRotational), 16},
		{"FlagSendTrim", uint64(FlagSendTrim), 32}, {"FlagSendWriteZeroes", uint64(FlagSendWriteZeroes), 64},
		{"FlagSendDF", uint64(FlagSendDF), 128}, {"FlagCanMultiConn", uint64(FlagCanMultiConn), 256},
		{"FlagSendResize", uint64(FlagSendResize), 512}, {"FlagSendCache", uint64(FlagSendCache), 1024},
		{"FlagSendFastZero", uint64(FlagSendFastZero), 2048}, {"FlagBlockStatusPayload", uint64(FlagBlockStatusPayload), 4096},
		{"OldstyleFlags", uint64(OldstyleFlags), 13},
		{"CmdFlagDF", uint64(CmdFlagDF), 4}, {"CmdFlagReqOne", uint64(CmdFlagReqOne), 8}, {"CmdFlagPayloadLen", uint64(CmdFlagPayloadLen), 32},
		{"CmdDisc", uint64(CmdDisc), 2}, {"CmdFlush", uint64(CmdFlush), 3}, {"CmdTrim", uint64(CmdTrim), 4},
		{"CmdCache", uint64(CmdCache), 5}, {"CmdBlockStatus", uint64(CmdBlockStatus), 7}, {"CmdResize", uint64(CmdResize), 8},
		{"ChunkBlockStatusExt", uint64(ChunkBlockStatusExt), 6},
		{"EPERM", uint64(EPERM), 1}, {"ENOMEM", uint64(ENOMEM), 12}, {"EINVAL", uint64(EINVAL), 22},
		{"EOVERFLOW", uint64(EOVERFLOW), 75}, {"ENOTSUP", uint64(ENOTSUP), 95},
		{"StateHole", uint64(StateHole), 1}, {"StateZero", uint64(StateZero), 2},
		{"MagicOldstyle", MagicOldstyle, 0x00420281861253}, {"MagicExtendedRequest", uint64(MagicExtendedRequest), 0x21e41c71},
		{"MagicExtendedReply", uint64(MagicExtendedReply), 0x6e8a278c},
		{"OldstyleGreetingSize", OldstyleGreetingSize, 8 + 8 + 8 + 4 + 124},
	} {
		if c.got != c.want {
			t.Errorf("%s is %#x, the protocol says %#x", c.name, c.got, c.want)
		}
	}
}

func TestHeadersDecode(t *testing.T) {
	r, err := DecodeRequest(unhex(t, "25609513 0005 0007 1122334455667788 8000000000000001 fffffffe ff"))
	if want := (Request{CmdFlagFUA | CmdFlagDF, CmdBlockStatus, 0x1122334455667788, 1<<63 + 1, 0xfffffffe}); r != want || err != nil {
		t.Errorf("request: got %+v, %v", r, err)
	}
	r, err = DecodeRequest(unhex(t, "12560953 0000 0001 1122334455667788 0000000000000000 00000200"))
	if !errors.Is(err, ErrMagic) || r.Cookie != 0x1122334455667788 || r.Command != CmdWrite {
		t.Errorf("request with the magic of Linux 2.1: got %+v, %v", r, err)
	}
	s, err := DecodeSimpleReply(unhex(t, "67446698 00000016 0000000000000009"))
	if s != (SimpleReply{EINVAL, 9}) || err != nil {
		t.Errorf("simple reply: got %+v, %v", s, err)
	}
	o, err := DecodeOptionHeader(unhex(t, "49484156454f5054 00000007 0000000c"))
	if o != (OptionHeader{OptGo, 12}) || err != nil {
		t.Errorf("option: got %+v, %v", o, err)
	}
	p, err := DecodeOptionReplyHeader(unhex(t, "0003e889045565a9 00000007 80000006 00000002"))
	if p != (OptionReplyHeader{OptGo, RepErrUnknown, 2}) || err != nil {
		t.Errorf("option reply: got %+v, %v", p, err)
	}
	h, err := DecodeChunkHeader(unhex(t, "668e33ef 0001 0002 1122334455667788 0000000c"))
	if h != (ChunkHeader{ChunkFlagDone, ChunkOffsetHole, 0x1122334455667788, 12}) || err != nil {
		t.Errorf("chunk: got %+v, %v", h, err)
	}
	size, flags, err := DecodeExportNameReply(unhex(t, "0000000000100000 000d"))
	if size != 1<<20 || flags != OldstyleFlags || err != nil {
		t.Errorf("answer to EXPORT_NAME: got %d, %v, %v", size, flags, err)
	}
}

func TestHeadersCutAnywhereAreShort(t *testing.T) {
	cases := map[string]struct {
		whole  []byte
		decode func([]byte) error
	}{
		"request":      {AppendRequest(nil, Request{}), func(b []byte) error { _, err := DecodeRequest(b); return err }},
		"simple reply": {AppendSimpleReply(nil, 0, 0), func(b []byte) error { _, err := DecodeSimpleReply(b); return err }},
		"chunk":        {AppendNoneChunk(nil, 0), func(b []byte) error { _, err := DecodeChunkHeader(b); return err }},
		"option":       {AppendOption(nil, OptGo, nil), func(b []byte) error { _, err := DecodeOptionHeader(b); return err }},
		"option reply": {AppendOptionReply(nil, OptGo, RepAck, nil), func(b []byte) error { _, err := DecodeOptionReplyHeader(b); return err }},
		"export name":  {AppendExportNameReply(nil, 0, 0, true), func(b []byte) error { _, _, err := DecodeExportNameReply(b); return err }},
		"greeting":     {AppendGreeting(nil, 0), func(b []byte) error { _, err := DecodeGreeting(b); return err }},
		"client flags": {AppendClientFlags(nil, 0), func(b []byte) error { _, err := DecodeClientFlags(b, 0); return err }},
	}
	for name, c := range cases {
		for n := range c.whole {
			if err := c.decode(c.whole[:n]); !errors.Is(err, ErrShort) {
				t.Errorf("%s cut to %d bytes: got %v, want ErrShort", name, n, err)
			}
		}
		if err := c.decode(c.whole); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEncodingIntoRoomThatIsThereAllocatesNothing(t *testing.T) {
	buf := make([]byte, 0, 256)
	extents := []Descriptor{{512, StateZero}}
	req := AppendRequest(nil, Request{Command: CmdRead})
	allocs := testing.AllocsPerRun(100, func() {
		b := AppendSimpleReply(buf, EIO, 1)
		b = AppendOffsetData(b, ChunkFlagDone, 1, 2, 3)
		b = AppendOffsetHole(b, 0, 1, 2, 3)
		b = AppendBlockStatus(b, 0, 1, 2, extents)
		b = AppendErrorChunk(b, ChunkFlagDone, 1, EIO, "text")
		AppendNoneChunk(b, 1)
		if _, err := DecodeRequest(req); err != nil {
			t.Error(err)
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations per run", allocs)
	}
}
