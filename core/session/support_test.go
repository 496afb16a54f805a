// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/flexnbd/flexnbd/core/export"
	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// docs/nbd.md is written from the tables below. Each line has the test that shows
// it, so that no line outlives its test, and TestSupportPage compares the tables
// with what a session really offers, so that none is missing. To write the page:
//
//	go test ./core/session -run TestSupportPage -update

var update = flag.Bool("update", false, "write docs/nbd.md")

const (
	supportPage = "../../docs/nbd.md"
	protocol    = "https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md"
)

// support is a line of the page.
type support struct {
	number  int    // the protocol's own, where it has one
	feature string // by the protocol's name
	section string // of the protocol
	what    string // it does here
	shown   func(*testing.T)
}

var supportedHandshakes = []support{
	{0, "fixed newstyle", "Fixed newstyle negotiation", "The default (`--handshake newstyle`).", TestGoldenFixedNewstyle},
	{0, "newstyle", "Newstyle negotiation", "A client that is not fixed newstyle may only send `NBD_OPT_EXPORT_NAME`.", TestChecklist04NotFixedMeansExportNameOnly},
	{0, "oldstyle", "Oldstyle negotiation", "With `--handshake oldstyle`, for clients such as those of flexnbd 0.x. Offers reading, writing, `NBD_CMD_FLUSH` and `NBD_CMD_FLAG_FUA`. Its flags do not say that an export is read-only; writes to one are refused.", TestChecklist01GoldenOldstyle},
	{0, "`NBD_FLAG_NO_ZEROES`", "Handshake flags", "The padding behind `NBD_OPT_EXPORT_NAME` is left out if the client wants it so.", TestChecklist05GoldenExportName},
}

var supportedOptions = []support{
	{int(nbd.OptExportName), "`NBD_OPT_EXPORT_NAME`", "Option types", "Enters the transmission phase.", TestChecklist05GoldenExportName},
	{int(nbd.OptAbort), "`NBD_OPT_ABORT`", "Option types", "Is acknowledged, then the connection ends.", TestChecklist06AbortIsAcknowledged},
	{int(nbd.OptList), "`NBD_OPT_LIST`", "Option types", "There is one export, whose name is empty.", TestGoldenFixedNewstyle},
	{int(nbd.OptInfo), "`NBD_OPT_INFO`", "Option types", "Says what `NBD_OPT_GO` would say.", TestChecklist08InfoThenGoSayTheSame},
	{int(nbd.OptGo), "`NBD_OPT_GO`", "Option types", "Enters the transmission phase, or says why not; the client may try again.", TestChecklist08BrokenInfoAndGo},
	{int(nbd.OptStructuredReply), "`NBD_OPT_STRUCTURED_REPLY`", "Option types", "Makes replies structured.", TestGoldenFixedNewstyle},
	{int(nbd.OptListMetaContext), "`NBD_OPT_LIST_META_CONTEXT`", "Option types", "Lists `base:allocation`.", TestChecklist11MetaContexts},
	{int(nbd.OptSetMetaContext), "`NBD_OPT_SET_META_CONTEXT`", "Option types", "Selects `base:allocation`. Each selection replaces the one before, even if it fails.", TestChecklist11SetMetaContextReplaces},
}

var supportedInformation = []support{
	{int(nbd.InfoExport), "`NBD_INFO_EXPORT`", "Option reply types", "Size and transmission flags; always sent.", TestChecklist08InfoThenGoSayTheSame},
	{int(nbd.InfoName), "`NBD_INFO_NAME`", "Option reply types", "The empty name.", TestChecklist08InformationIsGivenOnce},
	{int(nbd.InfoBlockSize), "`NBD_INFO_BLOCK_SIZE`", "Option reply types", "See the limits below.", TestChecklist21BlockSizesAreThoseOfTheStore},
}

var supportedFlags = []support{
	{int(nbd.FlagHasFlags), "`NBD_FLAG_HAS_FLAGS`", "Transmission flags", "Always set.", TestFlagsFollowTheExport},
	{int(nbd.FlagReadOnly), "`NBD_FLAG_READ_ONLY`", "Transmission flags", "With `--read-only`, or where the backend can't write.", TestFlagsFollowTheExport},
	{int(nbd.FlagSendFlush), "`NBD_FLAG_SEND_FLUSH`", "Transmission flags", "Always set.", TestFlagsFollowTheExport},
	{int(nbd.FlagSendFUA), "`NBD_FLAG_SEND_FUA`", "Transmission flags", "Always set.", TestFlagsFollowTheExport},
	{int(nbd.FlagSendTrim), "`NBD_FLAG_SEND_TRIM`", "Transmission flags", "Unless the export is read-only.", TestFlagsFollowTheExport},
	{int(nbd.FlagSendWriteZeroes), "`NBD_FLAG_SEND_WRITE_ZEROES`", "Transmission flags", "Unless the export is read-only.", TestFlagsFollowTheExport},
	{int(nbd.FlagSendDF), "`NBD_FLAG_SEND_DF`", "Transmission flags", "With structured replies.", TestFlagsFollowTheExport},
	{int(nbd.FlagCanMultiConn), "`NBD_FLAG_CAN_MULTI_CONN`", "Transmission flags", "Always set: a flush on one connection covers what was written on all of them.", TestChecklist19FlushCoversAllConnections},
	{int(nbd.FlagSendCache), "`NBD_FLAG_SEND_CACHE`", "Transmission flags", "Always set.", TestFlagsFollowTheExport},
	{int(nbd.FlagSendFastZero), "`NBD_FLAG_SEND_FAST_ZERO`", "Transmission flags", "Where the backend can tell whether zeroing is fast.", TestChecklist15FastZeroNeedsAFastStore},
}

var supportedCommands = []support{
	{int(nbd.CmdRead), "`NBD_CMD_READ`", "Request types", "With structured replies, what is known to be zero comes as a hole.", TestKnownZeroes},
	{int(nbd.CmdWrite), "`NBD_CMD_WRITE`", "Request types", "Zeroes written to what is known to be zero take no space.", TestEachCommand},
	{int(nbd.CmdDisc), "`NBD_CMD_DISC`", "Request types", "What is in flight is finished and answered first.", TestChecklist23DisconnectFinishesWhatIsInFlight},
	{int(nbd.CmdFlush), "`NBD_CMD_FLUSH`", "Request types", "Once a flush has failed, every later one fails too.", TestChecklist19FailedFlushFailsOnAllConnections},
	{int(nbd.CmdTrim), "`NBD_CMD_TRIM`", "Request types", "Frees the space where the backend can.", TestFlagsReachTheStore},
	{int(nbd.CmdCache), "`NBD_CMD_CACHE`", "Request types", "Reads the range and throws it away, which warms the caches that the backend reads through.", TestCacheReadsItsRange},
	{int(nbd.CmdWriteZeroes), "`NBD_CMD_WRITE_ZEROES`", "Request types", "Frees the space where the backend can.", TestFlagsReachTheStore},
	{int(nbd.CmdBlockStatus), "`NBD_CMD_BLOCK_STATUS`", "Request types", "For `base:allocation`.", TestChecklist20BlockStatus},
}

var supportedCommandFlags = []support{
	{int(nbd.CmdFlagFUA), "`NBD_CMD_FLAG_FUA`", "Command flags", "Accepted with every command.", TestChecklist14FUAIsAcceptedEverywhere},
	{int(nbd.CmdFlagNoHole), "`NBD_CMD_FLAG_NO_HOLE`", "Command flags", "The range stays allocated, or becomes so.", TestFlagsReachTheStore},
	{int(nbd.CmdFlagDF), "`NBD_CMD_FLAG_DF`", "Command flags", "Whatever the length, up to the longest read.", TestLongReads},
	{int(nbd.CmdFlagReqOne), "`NBD_CMD_FLAG_REQ_ONE`", "Command flags", "One extent, not longer than the request.", TestChecklist20BlockStatus},
	{int(nbd.CmdFlagFastZero), "`NBD_CMD_FLAG_FAST_ZERO`", "Command flags", "`NBD_ENOTSUP` where zeroing would not be fast.", TestChecklist13NotSupportedIsForFastZeroOnly},
}

var supportedReplies = []support{
	{0, "simple replies", "Simple reply message", "The default. When a long read fails behind its first bytes, the connection ends.", TestChecklist17FailureInsideASimpleReply},
	{0, "structured replies", "Structured reply chunk message", "Data, holes, block status, and errors with a text.", TestChecklist16ReadErrorsAreStructured},
	{0, "`base:allocation`", "`base:allocation` metadata context", "`NBD_STATE_HOLE` and `NBD_STATE_ZERO`, each by itself.", TestChecklist20BlockStatus},
	{0, "errors", "Error values", "`NBD_EPERM`, `NBD_EIO`, `NBD_ENOMEM`, `NBD_EINVAL`, `NBD_ENOSPC`, `NBD_EOVERFLOW`, `NBD_ENOTSUP`, `NBD_ESHUTDOWN`.", TestChecklist13ErrnoOfTheStore},
	{0, "shutdown", "Terminating the transmission phase", "New requests get `NBD_ESHUTDOWN`, those in flight are finished.", TestChecklist23StopFinishesWhatIsInFlight},
}

var limits = []support{
	{0, "longest read or write", "Size constraints", size(MaxRequest) + ", as the maximum payload says. Longer ones get `NBD_EOVERFLOW`.", TestChecklist13RequestsOverTheMaximum},
	{0, "longest request without payload", "Size constraints", "4 GiB - 1 byte, whatever the maximum payload says.", TestChecklist21OnlyPayloadIsBounded},
	{0, "block sizes", "Size constraints", "Minimum 1 byte; preferred as the backend says, 4 KiB if it does not.", TestChecklist21BlockSizesAreThoseOfTheStore},
	{0, "requests without an answer", "Ordering of messages and writes", fmt.Sprintf("%d on each connection; then the server stops reading from it.", maxRequests), TestUnansweredRequestsAreBounded},
	{0, "memory for payload", "Transmission", size(wire.DefaultBudget) + " for each connection; then the server stops reading from it.", TestClientThatNeverReads},
	{0, "extents in one answer", "Request types", fmt.Sprint(maxDescriptors), TestChecklist20BlockStatusIsBounded},
	{0, "time for the handshake", "Newstyle negotiation", DefaultHandshakeTimeout.String(), TestChecklist03SilentHandshakeIsCut},
	{0, "options", "Option types", fmt.Sprintf("%d, with up to %s of data each", nbd.MaxOptions, size(nbd.MaxOptionLength)), TestChecklist03TooManyOptions},
	{0, "strings", "Conventions", size(nbd.MaxString), TestChecklist09Strings},
	{0, "time for a request", "Request message", "None; 120 seconds with `--killswitch`.", TestOverdueReply},
}

// notSupported has what the server answers.
var notSupported = []support{
	{0, "TLS", "TLS support", "`NBD_OPT_STARTTLS` gets `NBD_REP_ERR_UNSUP`.", TestChecklist03UnknownOptions},
	{0, "extended headers", "Extended reply chunk message", "`NBD_OPT_EXTENDED_HEADERS` gets `NBD_REP_ERR_UNSUP`.", TestChecklist03UnknownOptions},
	{0, "payload length", "Command flags", "`NBD_CMD_FLAG_PAYLOAD_LEN`, which needs extended headers, gets `NBD_EINVAL`.", TestChecklist13RefusedRequests},
	{0, "resize", "Experimental extensions", "`NBD_CMD_RESIZE` gets `NBD_EINVAL`.", TestChecklist13RefusedRequests},
	{0, "several exports", "Option types", "Any name but the empty one gets `NBD_REP_ERR_UNKNOWN`.", TestChecklist08BrokenInfoAndGo},
	{0, "other metadata contexts", "Metadata querying", "Are not found.", TestChecklist11MetaContexts},
}

// size words a number of bytes.
func size(n int64) string {
	for _, unit := range []struct {
		bytes int64
		name  string
	}{{1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}} {
		if n%unit.bytes == 0 {
			return fmt.Sprintf("%d %s", n/unit.bytes, unit.name)
		}
	}
	return fmt.Sprintf("%d bytes", n)
}

func TestSupportPage(t *testing.T) {
	offered := offered(t)
	for what, lines := range map[string][]support{
		"options": supportedOptions, "information": supportedInformation, "transmission flags": supportedFlags,
		"commands": supportedCommands, "command flags": supportedCommandFlags,
	} {
		var listed []int
		for _, l := range lines {
			listed = append(listed, l.number)
		}
		if !slices.Equal(listed, offered[what]) {
			t.Errorf("%s: the page lists the numbers %d, the server has %d", what, listed, offered[what])
		}
	}
	page := []byte(renderSupport())
	if *update {
		if err := os.WriteFile(supportPage, page, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(supportPage); err != nil || !bytes.Equal(got, page) {
		t.Errorf("docs/nbd.md is stale: run go test ./core/session -run TestSupportPage -update (%v)", err)
	}
}

// offered asks a session for everything there could be, and returns the numbers of
// what there is.
func offered(t *testing.T) map[string][]int {
	t.Helper()
	d := newDisk(testSize)
	d.info.CanFast = true
	e := open(t, d)
	has := map[string][]int{"options": {int(nbd.OptExportName), int(nbd.OptAbort)}}

	// 20 is beyond the options there are; 1 and 2 end the handshake.
	for opt := nbd.Option(3); opt < 20; opt++ {
		c := haggle(t)
		c.option(opt, nbd.AppendMetaContextRequest(nil, "")[:6]) // GO's shape, and wrong for most
		if h, _, err := nbd.ReadOptionReply(c.in); err != nil || h.Reply == nbd.RepErrUnsup {
			continue
		}
		c.option(opt, nil) // what is not offered may be wrong, too
		if h, _, err := nbd.ReadOptionReply(c.in); err == nil && h.Reply == nbd.RepErrUnsup {
			continue
		}
		has["options"] = append(has["options"], int(opt))
	}

	c := haggle(t)
	var wanted []nbd.InfoType
	for i := range nbd.InfoType(100) {
		wanted = append(wanted, i)
	}
	c.option(nbd.OptInfo, nbd.AppendInfoRequest(nil, "", wanted...))
	for {
		h, data, err := nbd.ReadOptionReply(c.in)
		if err != nil {
			t.Fatal(err)
		}
		if h.Reply != nbd.RepInfo {
			break
		}
		info, err := nbd.ParseInfo(data)
		if err != nil {
			t.Fatal(err)
		}
		has["information"] = append(has["information"], int(info.Type))
	}

	flags := transmissionFlags(e, true) | transmissionFlags(openWith(t, newDisk(testSize), export.Options{ReadOnly: true}), true)
	has["transmission flags"] = bits(uint16(flags))
	s := &transmission{agreed: &agreement{flags: flags, structured: true, allocation: true}}
	var all nbd.CommandFlags
	for cmd := range 1 << 16 {
		if allowed, known := s.allowedFlags(nbd.Command(cmd)); known || nbd.Command(cmd) == nbd.CmdDisc {
			has["commands"] = append(has["commands"], cmd)
			all |= allowed
		}
	}
	has["command flags"] = bits(uint16(all))
	return has
}

// bits are the set bits of v, each by itself.
func bits(v uint16) (set []int) {
	for i := range 16 {
		if v&(1<<i) != 0 {
			set = append(set, 1<<i)
		}
	}
	return set
}

func renderSupport() string {
	var b strings.Builder
	sections := map[string]string{}
	b.WriteString(`# What flexnbd serves of the NBD protocol

<!-- Written by: go test ./core/session -run TestSupportPage -update -->

Sections are those of the [NBD protocol](` + protocol + `).
This page is written from the tests, which are in ` + "`core/session`" + `.
`)
	for _, part := range []struct {
		title, column string
		lines         []support
	}{
		{"Handshakes", "Handshake", supportedHandshakes},
		{"Options of the handshake", "Option", supportedOptions},
		{"Information about the export", "Information", supportedInformation},
		{"Transmission flags", "Flag", supportedFlags},
		{"Commands", "Command", supportedCommands},
		{"Command flags", "Flag", supportedCommandFlags},
		{"Replies", "Reply", supportedReplies},
		{"Limits", "Limit", limits},
		{"Not supported", "Feature", notSupported},
	} {
		fmt.Fprintf(&b, "\n## %s\n\n| %s | | Section | Test |\n|---|---|---|---|\n", part.title, part.column)
		for _, l := range part.lines {
			fmt.Fprintf(&b, "| %s | %s | [%s] | `%s` |\n", l.feature, l.what, l.section, nameOf(l.shown))
			sections[l.section] = fmt.Sprintf("[%s]: %s#%s\n", l.section, protocol, anchor(l.section))
		}
	}
	b.WriteString("\n")
	for _, section := range slices.Sorted(maps.Keys(sections)) {
		b.WriteString(sections[section])
	}
	return b.String()
}

// anchor is what GitHub calls a heading in links.
func anchor(heading string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-':
			return r
		}
		return -1
	}, strings.ToLower(heading))
}

// nameOf is the name of a test.
func nameOf(test func(*testing.T)) string {
	name := runtime.FuncForPC(reflect.ValueOf(test).Pointer()).Name()
	return name[strings.LastIndex(name, ".")+1:]
}
