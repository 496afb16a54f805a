// SPDX-License-Identifier: GPL-3.0-or-later

package nbd

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
)

// id returns 16 bytes that count up from first.
func id(first byte) (b [16]byte) {
	for i := range b {
		b[i] = first + byte(i)
	}
	return b
}

var (
	sendHello = MigrationHello{
		Version: 1, Purpose: MigrationSend, Size: 0x280000000,
		Source: id(0xa0), ID: id(0xb0), Replaces: id(0xc0),
	}
	preparedAnswer = MigrationAnswer{
		Version: 1, Flags: MigrationPrepared, Size: 0x280000000,
		Prepared: id(0xc0), Address: "192.0.2.7", Port: 4777,
	}
)

// The bytes were written by hand.
func TestMigrationMessagesByteForByte(t *testing.T) {
	hello := "0001 0001 00000000 0000000280000000" +
		"a0a1a2a3a4a5a6a7a8a9aaabacadaeaf b0b1b2b3b4b5b6b7b8b9babbbcbdbebf c0c1c2c3c4c5c6c7c8c9cacbcccdcecf"
	answer := "0001 0002 12a9 09 00 0000000280000000 c0c1c2c3c4c5c6c7c8c9cacbcccdcecf 3139322e302e322e37"
	for _, c := range []struct {
		name string
		got  []byte
		want string
	}{
		{"hello", AppendMigrationHello(nil, sendHello), hello},
		{"hello for COMMIT", AppendMigrationHello(nil, MigrationHello{Version: 1, Purpose: MigrationCommit, Size: 1, Source: id(1), ID: id(2)}),
			"0001 0002 00000000 0000000000000001 0102030405060708090a0b0c0d0e0f10 02030405060708090a0b0c0d0e0f1011" + strings.Repeat("00", 16)},
		{"option", AppendOption(nil, OptMigrate, AppendMigrationHello(nil, sendHello)), "49484156454f5054 464c4558 00000040" + hello},
		{"answer", AppendMigrationAnswer(nil, preparedAnswer), answer},
		{"answer without an address", AppendMigrationAnswer(nil, MigrationAnswer{Version: 1, Flags: MigrationZeroes, Size: 4096}),
			"0001 0001 0000 00 00 0000000000001000" + strings.Repeat("00", 16)},
		{"reply", AppendOptionReply(nil, OptMigrate, RepMigrate, AppendMigrationAnswer(nil, preparedAnswer)),
			"0003e889045565a9 464c4558 464c4558 00000029" + answer},
		{"PREPARE", AppendRequest(nil, Request{Command: CmdPrepare, Cookie: 7}), "25609513 0000 4650 0000000000000007 0000000000000000 00000000"},
		{"COMMIT", AppendRequest(nil, Request{Command: CmdCommit, Cookie: 7}), "25609513 0000 4643 0000000000000007 0000000000000000 00000000"},
		{"ENTRUST", AppendRequest(nil, EntrustRequest(7)), "25609513 00010000 0000000000000007 0000000000000000 00000000"},
	} {
		if want := unhex(t, c.want); !bytes.Equal(c.got, want) {
			t.Errorf("%s:\n got %x\nwant %x", c.name, c.got, want)
		}
	}
	if len(AppendMigrationHello(nil, sendHello)) != MigrationHelloSize || len(AppendMigrationAnswer(nil, MigrationAnswer{})) != MigrationAnswerSize {
		t.Error("a message has not the size that its constant says")
	}
	if got, err := ParseMigrationHello(unhex(t, hello)); got != sendHello || err != nil {
		t.Errorf("got %+v, %v", got, err)
	}
	if got, err := ParseMigrationAnswer(unhex(t, answer)); got != preparedAnswer || err != nil {
		t.Errorf("got %+v, %v", got, err)
	}
}

// broken changes one byte of a good message.
func broken(b []byte, at int, to byte) []byte {
	b = bytes.Clone(b)
	b[at] = to
	return b
}

func TestBrokenHellosAreMalformed(t *testing.T) {
	good := AppendMigrationHello(nil, sendHello)
	zero := func(from int) []byte {
		return append(append(bytes.Clone(good[:from]), make([]byte, 16)...), good[from+16:]...)
	}
	cases := map[string][]byte{
		"one byte too many":        append(bytes.Clone(good), 0),
		"version 0":                broken(good, 1, 0),
		"version 2":                broken(good, 1, 2),
		"version 257":              broken(good, 0, 1),
		"purpose 0":                broken(good, 3, 0),
		"purpose 3":                broken(good, 3, 3),
		"reserved":                 broken(good, 7, 1),
		"size of 2^63":             broken(good, 8, 0x80),
		"no source":                zero(16),
		"no id":                    zero(32),
		"COMMIT that replaces":     broken(good, 3, 2),
		"version 2, another size":  {0, 2, 0, 1},
		"version 2 and no more":    {0, 2},
		"nothing but half a field": {0},
	}
	for n := range good {
		cases[fmt.Sprintf("cut to %d bytes", n)] = good[:n]
	}
	for name, b := range cases {
		_, err := ParseMigrationHello(b)
		if !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: got %v", name, err)
		}
		if strings.HasPrefix(name, "version 2") && !strings.Contains(err.Error(), "version 2") {
			t.Errorf("%s: the version is not named: %v", name, err)
		}
	}
	if h, err := ParseMigrationHello(zero(48)); err != nil || h.Replaces != [16]byte{} {
		t.Errorf("a hello that replaces nothing: %v", err)
	}
}

func TestBrokenAnswersAreMalformed(t *testing.T) {
	good := AppendMigrationAnswer(nil, preparedAnswer)
	cases := map[string][]byte{
		"one byte too many":     append(bytes.Clone(good), 'x'),
		"version 2":             broken(good, 1, 2),
		"unknown flag":          broken(good, 3, 2|8),
		"unknown high flag":     broken(good, 2, 1),
		"reserved":              broken(good, 7, 1),
		"size of 2^63":          broken(good, 8, 0x80),
		"id without its flag":   broken(good, 3, 1),
		"flag without an id":    AppendMigrationAnswer(nil, MigrationAnswer{Version: 1, Flags: MigrationPrepared}),
		"prepared and owned":    broken(good, 3, 6),
		"control character":     broken(good, 32, '\n'),
		"NUL":                   broken(good, 32, 0),
		"not UTF-8":             broken(good, 32, 0xff),
		"address longer by one": broken(good, 6, 10),
	}
	for n := range good {
		cases[fmt.Sprintf("cut to %d bytes", n)] = good[:n]
	}
	for name, b := range cases {
		if _, err := ParseMigrationAnswer(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	longest := MigrationAnswer{Version: 1, Flags: MigrationOwner | MigrationZeroes, Address: "/run/ä b" + strings.Repeat("c", 246)}
	if got, err := ParseMigrationAnswer(AppendMigrationAnswer(nil, longest)); got != longest || err != nil || len(longest.Address) != MaxMigrationAddress {
		t.Errorf("an address of %d bytes: %v", len(longest.Address), err)
	}
	longest.Address += "c"
	if err := longest.Check(); !errors.Is(err, ErrMalformed) {
		t.Errorf("one byte more: %v", err)
	}
}

func TestOnlyEntrustIsEntrust(t *testing.T) {
	if !IsEntrust(EntrustRequest(1<<63)) || EntrustRequest(5).Cookie != 5 {
		t.Error("ENTRUST is not recognised")
	}
	for _, r := range []Request{
		{Command: CmdRead},
		{Command: CmdRead, Flags: CmdFlagFUA, Length: 1},
		{Command: CmdRead, Flags: CmdFlagFUA, Offset: 1},
		{Command: CmdRead, Flags: CmdFlagFUA | CmdFlagDF},
		{Command: CmdWrite, Flags: CmdFlagFUA},
		{Command: CmdFlush, Flags: CmdFlagFUA},
	} {
		if IsEntrust(r) {
			t.Errorf("%+v is taken for ENTRUST", r)
		}
	}
}

func TestMigrationsNamesInLogs(t *testing.T) {
	for want, got := range map[string]fmt.Stringer{
		"MIGRATE": OptMigrate, "PREPARE": CmdPrepare, "COMMIT": CmdCommit,
		"SEND": MigrationSend, "purpose 9": MigrationPurpose(9),
		"ZEROES|OWNER": MigrationZeroes | MigrationOwner, "none": MigrationFlags(0), "PREPARED|0x8": MigrationPrepared | 8,
	} {
		if got.String() != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if RepMigrate.String() != "MIGRATE" || MigrationCommit.String() != "COMMIT" || RepMigrate.IsError() {
		t.Errorf("got %v, %v", RepMigrate, MigrationCommit)
	}
}

func FuzzParseMigrationHello(f *testing.F) {
	f.Add(AppendMigrationHello(nil, sendHello))
	f.Add(AppendMigrationHello(nil, MigrationHello{Version: 1, Purpose: MigrationCommit, Source: id(1), ID: id(2)}))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := ParseMigrationHello(b)
		switch {
		case err == nil && (!bytes.Equal(AppendMigrationHello(nil, h), b) || h.Check() != nil):
			t.Errorf("%x does not come back", b)
		case err != nil && (!errors.Is(err, ErrMalformed) || h != MigrationHello{}):
			t.Errorf("got %+v, %v", h, err)
		}
	})
}

func FuzzParseMigrationAnswer(f *testing.F) {
	f.Add(AppendMigrationAnswer(nil, preparedAnswer))
	f.Add(AppendMigrationAnswer(nil, MigrationAnswer{Version: 1, Flags: MigrationOwner}))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := ParseMigrationAnswer(b)
		switch {
		case err == nil && (!bytes.Equal(AppendMigrationAnswer(nil, a), b) || a.Check() != nil):
			t.Errorf("%x does not come back", b)
		case err != nil && (!errors.Is(err, ErrMalformed) || a != MigrationAnswer{}):
			t.Errorf("got %+v, %v", a, err)
		}
	})
}

// dumps returns the bytes of the page's examples: each is a code block that begins
// with "<name>:", and then has lines of hex digits, with a comment behind "|".
func dumps(t *testing.T, page string) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	for _, block := range regexp.MustCompile("(?s)```hex\n(.*?)```").FindAllStringSubmatch(page, -1) {
		name, rest, ok := strings.Cut(block[1], ":\n")
		if !ok || all[name] != nil {
			t.Fatalf("an example has no name of its own:\n%s", block[1])
		}
		var hex strings.Builder
		for line := range strings.Lines(rest) {
			digits, _, _ := strings.Cut(line, "|")
			hex.WriteString(digits)
		}
		all[name] = unhex(t, hex.String())
	}
	return all
}

// The worked example of docs/migration-protocol.md is what this package sends.
func TestMigrationPagesExamplesAreTrue(t *testing.T) {
	page, err := os.ReadFile("../../docs/migration-protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	commit := sendHello
	commit.Purpose, commit.Replaces = MigrationCommit, [16]byte{}
	owner := preparedAnswer
	owner.Flags, owner.Prepared = MigrationOwner, [16]byte{}
	want := map[string][]byte{
		"hello":        AppendOption(nil, OptMigrate, AppendMigrationHello(nil, sendHello)),
		"answer":       AppendOptionReply(nil, OptMigrate, RepMigrate, AppendMigrationAnswer(nil, preparedAnswer)),
		"ack":          AppendOptionReply(nil, OptMigrate, RepAck, nil),
		"refusal":      AppendOptionError(nil, OptMigrate, RepErrPolicy, "another sender is connected"),
		"prepare":      AppendRequest(nil, Request{Command: CmdPrepare, Cookie: 0x11}),
		"prepared":     AppendSimpleReply(nil, 0, 0x11),
		"commit hello": AppendOption(nil, OptMigrate, AppendMigrationHello(nil, commit)),
		"owner":        AppendOptionReply(nil, OptMigrate, RepMigrate, AppendMigrationAnswer(nil, owner)),
		"commit":       AppendRequest(nil, Request{Command: CmdCommit, Cookie: 0x12}),
		"entrust":      AppendRequest(nil, EntrustRequest(0x13)),
	}
	got := dumps(t, string(page))
	for name, b := range want {
		if !bytes.Equal(got[name], b) {
			t.Errorf("%s:\npage %x\ncode %x", name, got[name], b)
		}
		delete(got, name)
	}
	for name := range got {
		t.Errorf("the page's example %q is not checked", name)
	}
	for name, number := range map[string]uint32{
		"OPT_MIGRATE": uint32(OptMigrate), "CMD_PREPARE": uint32(CmdPrepare), "CMD_COMMIT": uint32(CmdCommit),
	} {
		if !regexp.MustCompile(fmt.Sprintf("`%s`[^\n]*`0x%x`", name, number)).Match(page) {
			t.Errorf("the page does not say that %s is 0x%x", name, number)
		}
	}
}
