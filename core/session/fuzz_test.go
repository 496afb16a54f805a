// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"context"
	"errors"
	"io"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/core/export"
	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/sdk/memstore"
)

// fuzzPrefixes are how far a fuzzed client has behaved before it says what the
// fuzzer made up. The number behind the last one is the oldstyle handshake, in which
// there is nothing to say.
var fuzzPrefixes = [][]byte{
	nil,
	nbd.AppendClientFlags(nil, fixedNoZeroes),
	nbd.AppendOption(nbd.AppendClientFlags(nil, nbd.FlagClientNoZeroes), nbd.OptExportName, nil),
	slices.Concat(
		nbd.AppendClientFlags(nil, fixedNoZeroes),
		nbd.AppendOption(nil, nbd.OptStructuredReply, nil),
		nbd.AppendOption(nil, nbd.OptSetMetaContext, nbd.AppendMetaContextRequest(nil, "", nbd.BaseAllocation)),
		nbd.AppendOption(nil, nbd.OptGo, nbd.AppendInfoRequest(nil, "")),
	),
}

// fuzzMigrates in the prefix's number makes a server that waits for a disk. Such a
// client has behaved as a sender does.
const fuzzMigrates = 0x80

var fuzzSenderPrefixes = func() (prefixes [][]byte) {
	flags, commit := nbd.AppendClientFlags(nil, fixedNoZeroes), testHello()
	commit.Purpose, commit.Replaces = nbd.MigrationCommit, [16]byte{}
	for _, hello := range []nbd.MigrationHello{testHello(), commit} {
		said := nbd.AppendOption(flags[:len(flags):len(flags)], nbd.OptMigrate, nbd.AppendMigrationHello(nil, hello))
		prefixes = append(prefixes, said, slices.Concat(said, nbd.AppendOption(nil, nbd.OptStructuredReply, nil), nbd.AppendOption(nil, nbd.OptGo, nbd.AppendInfoRequest(nil, ""))))
	}
	return append(prefixes, flags)
}()

// fuzzHost refuses some of what it is asked for.
func fuzzHost(t *testing.T) *host {
	h := newHost(t)
	h.begin = func(off, _ int64) error {
		if off%3 == 2 {
			return nbd.EPERM
		}
		return nil
	}
	h.commit = func(context.Context) error { return nbd.EINVAL }
	return h
}

// wantOver checks what a Migration was told of a connection that has ended.
func (h *host) wantOver() {
	h.t.Helper()
	for len(h.links) > 0 {
		if link := <-h.links; !isClosed(link.Ended()) {
			h.t.Error("a connection has not ended")
		}
	}
	if begun, ended, left := h.told(); begun != len(ended) || len(left) > 1 {
		h.t.Errorf("%d changes began, %d ended, and Left was called %d times", begun, len(ended), len(left))
	}
}

// FuzzSession has a client say anything, then listen until the end. The session
// must not panic, must end, and must leave nothing behind.
func FuzzSession(f *testing.F) {
	request := func(cmd nbd.Command, flags nbd.CommandFlags, off uint64, length uint32) []byte {
		return nbd.AppendRequest(nil, nbd.Request{Command: cmd, Flags: flags, Cookie: 1, Offset: off, Length: length})
	}
	const size = mib + 4096 + 1 // longer than a piece, and no multiple of anything
	f.Add(uint8(0), fuzzPrefixes[3])
	f.Add(uint8(1), nbd.AppendOption(nil, nbd.OptList, nil))
	f.Add(uint8(1), nbd.AppendOption(nil, nbd.OptInfo, nbd.AppendInfoRequest(nil, "x", nbd.InfoBlockSize)))
	f.Add(uint8(1), nbd.AppendOption(nil, nbd.OptListMetaContext, nbd.AppendMetaContextRequest(nil, "", "base:")))
	for prefix := range uint8(3) {
		f.Add(prefix+2, request(nbd.CmdCache, 0, 0, size))
		f.Add(prefix+2, request(nbd.CmdRead, 0, 0, size))
		f.Add(prefix+2, request(nbd.CmdRead, nbd.CmdFlagDF, 1, size-1))
		f.Add(prefix+2, slices.Concat(request(nbd.CmdWrite, nbd.CmdFlagFUA, 7, 9), numbered(9), request(nbd.CmdDisc, 0, 0, 0)))
		f.Add(prefix+2, slices.Concat(request(nbd.CmdWrite, 0, size, 9), numbered(9), request(nbd.CmdFlush, 0, 0, 0)))
		f.Add(prefix+2, slices.Concat(request(nbd.CmdWriteZeroes, nbd.CmdFlagNoHole, 0, size), request(nbd.CmdTrim, 0, 0, size)))
		f.Add(prefix+2, slices.Concat(request(nbd.CmdBlockStatus, nbd.CmdFlagReqOne, 0, size), request(9, 0, 0, 0)))
		f.Add(prefix+2, request(nbd.CmdWrite, 0, 0, size))
	}
	f.Add(uint8(fuzzMigrates+4), nbd.AppendOption(nil, nbd.OptMigrate, nbd.AppendMigrationHello(nil, testHello())))
	for n := range uint8(len(fuzzSenderPrefixes) + 1) {
		f.Add(fuzzMigrates+n, slices.Concat(request(nbd.CmdWrite, 0, 1, size-1), numbered(size-1), request(nbd.CmdWriteZeroes, 0, 2, 9),
			request(nbd.CmdFlush, 0, 0, 0), request(nbd.CmdPrepare, 0, 0, 0), request(nbd.CmdCommit, 0, 0, 0)))
		f.Add(fuzzMigrates+n, slices.Concat(request(nbd.CmdEntrust, nbd.CmdFlagsEntrust, 0, 0), request(nbd.CmdDisc, 0, 0, 0)))
		f.Add(fuzzMigrates+n, nbd.AppendOption(nil, nbd.OptMigrate, nbd.AppendMigrationHello(nil, testHello())))
	}
	f.Fuzz(func(t *testing.T, prefix uint8, said []byte) {
		e, err := export.Open(context.Background(), memstore.New(size), export.Options{})
		if err != nil {
			t.Fatal(err)
		}
		config, behaved := Config{Export: e, Log: hclog.NewNullLogger()}, []byte(nil)
		h, prefixes := fuzzHost(t), fuzzPrefixes
		if prefix&fuzzMigrates != 0 {
			config.Migration, prefixes = h, fuzzSenderPrefixes
		}
		if n := int(prefix&^fuzzMigrates) % (len(prefixes) + 1); n < len(prefixes) {
			behaved = prefixes[n]
		} else {
			config.Handshake = Oldstyle
		}
		near, far := socketpair(t, unix.SOCK_STREAM)
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = Serve(context.Background(), far, config)
		}()
		spoken := make(chan struct{})
		go func() {
			defer close(spoken)
			_, _ = near.Write(slices.Concat(behaved, said))
			_ = near.CloseWrite()
		}()
		_ = near.SetDeadline(time.Now().Add(patience))
		if _, err := io.Copy(io.Discard, near); err != nil && !isReset(err) {
			t.Errorf("the session does not end: %v", err)
		}
		_ = near.Close()
		<-spoken
		receive(t, done)
		h.wantOver()
		if err := e.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

// isReset is what a client sees that was still speaking when the session hung up.
func isReset(err error) bool { return errors.Is(err, syscall.ECONNRESET) }
