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
	f.Fuzz(func(t *testing.T, prefix uint8, said []byte) {
		e, err := export.Open(context.Background(), memstore.New(size), export.Options{})
		if err != nil {
			t.Fatal(err)
		}
		config, behaved := Config{Export: e, Log: hclog.NewNullLogger()}, []byte(nil)
		if n := int(prefix) % (len(fuzzPrefixes) + 1); n < len(fuzzPrefixes) {
			behaved = fuzzPrefixes[n]
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
		if err := e.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

// isReset is what a client sees that was still speaking when the session hung up.
func isReset(err error) bool { return errors.Is(err, syscall.ECONNRESET) }
