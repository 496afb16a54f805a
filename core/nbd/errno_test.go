// SPDX-License-Identifier: GPL-3.0-or-later

package nbd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"testing"
)

func TestErrorsBecomeTheErrnosOfTheProtocol(t *testing.T) {
	for _, c := range []struct {
		err            error
		want, fastZero Errno
	}{
		{nil, 0, 0},
		{syscall.EPERM, EPERM, EPERM},
		{syscall.EACCES, EPERM, EPERM},
		{syscall.EROFS, EPERM, EPERM},
		{syscall.EIO, EIO, EIO},
		{syscall.ENOMEM, ENOMEM, ENOMEM},
		{syscall.EINVAL, EINVAL, EINVAL},
		{syscall.ENOSPC, ENOSPC, ENOSPC},
		{syscall.EDQUOT, ENOSPC, ENOSPC},
		{syscall.EFBIG, ENOSPC, ENOSPC},
		{syscall.ENOTSUP, EINVAL, ENOTSUP},
		{syscall.EOPNOTSUPP, EINVAL, ENOTSUP},
		{syscall.ENOSYS, EINVAL, ENOTSUP},
		{syscall.ESHUTDOWN, ESHUTDOWN, ESHUTDOWN},
		{syscall.EOVERFLOW, EIO, EIO},
		{syscall.ENOENT, EIO, EIO},
		{syscall.Errno(0), EIO, EIO},
		{EOVERFLOW, EOVERFLOW, EOVERFLOW},
		{ENOTSUP, EINVAL, ENOTSUP},
		{ENOSPC, ENOSPC, ENOSPC},
		{Errno(0), EIO, EIO},
		{Errno(77), EIO, EIO},
		{context.Canceled, EIO, EIO},
		{context.DeadlineExceeded, EIO, EIO},
		{io.ErrUnexpectedEOF, EIO, EIO},
		{fs.ErrPermission, EPERM, EPERM},
		{&os.PathError{Op: "write", Path: "/x", Err: syscall.ENOSPC}, ENOSPC, ENOSPC},
		{fmt.Errorf("plugin file: %w", syscall.EROFS), EPERM, EPERM},
		{errors.Join(errors.New("first"), syscall.EDQUOT), ENOSPC, ENOSPC},
	} {
		if got := ErrnoOf(c.err, false); got != c.want {
			t.Errorf("%v: got %v, want %v", c.err, got, c.want)
		}
		if got := ErrnoOf(c.err, true); got != c.fastZero {
			t.Errorf("%v, fast zero: got %v, want %v", c.err, got, c.fastZero)
		}
	}
}

func TestEveryErrnoOfTheSystemMapsToOneOfTheProtocol(t *testing.T) {
	for no := range 4096 {
		for _, fastZero := range []bool{false, true} {
			got := ErrnoOf(syscall.Errno(no), fastZero)
			if !got.Known() || got == EOVERFLOW || (got == ENOTSUP && !fastZero) {
				t.Errorf("errno %d, fast zero %v: got %v", no, fastZero, got)
			}
		}
	}
}

func TestErrnosHaveNamesAndTexts(t *testing.T) {
	for e, want := range map[Errno]string{
		EPERM: "EPERM", EIO: "EIO", ENOMEM: "ENOMEM", EINVAL: "EINVAL", ENOSPC: "ENOSPC",
		EOVERFLOW: "EOVERFLOW", ENOTSUP: "ENOTSUP", ESHUTDOWN: "ESHUTDOWN", 0: "OK", 77: "errno 77",
	} {
		if e.String() != want {
			t.Errorf("%d: got %q", uint32(e), e.String())
		}
	}
	if got := ENOSPC.Error(); got != "no space left on device (ENOSPC)" {
		t.Error(got)
	}
	seen := map[string]Errno{}
	for _, e := range []Errno{EPERM, EIO, ENOMEM, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP, ESHUTDOWN, 77} {
		if other, dup := seen[e.Error()]; dup || e.Error() == "" {
			t.Errorf("%v and %v have the text %q", e, other, e.Error())
		}
		seen[e.Error()] = e
	}
}

func TestUnexpectedErrnoCountsAsEINVAL(t *testing.T) {
	if !errors.Is(fmt.Errorf("x: %w", Errno(77)), EINVAL) {
		t.Error("77 is not EINVAL")
	}
	if errors.Is(EIO, EINVAL) || errors.Is(Errno(0), EINVAL) || !errors.Is(EIO, EIO) {
		t.Error("a value of the protocol is mistaken for another")
	}
}

func TestNamesInLogsAreTheProtocols(t *testing.T) {
	for want, got := range map[string]fmt.Stringer{
		"GO": OptGo, "EXTENDED_HEADERS": OptExtendedHeaders, "option 0": Option(0), "option 12": Option(12), "option 4294967295": Option(1<<32 - 1),
		"ACK": RepAck, "ERR_TLS_REQD": RepErrTLSReqd, "reply 0x80000063": Reply(1<<31 + 99),
		"READ": CmdRead, "BLOCK_STATUS": CmdBlockStatus, "command 9": Command(9), "command 65535": Command(65535),
		"ERROR_OFFSET": ChunkErrorOffset, "NONE": ChunkNone, "chunk 0x3": ChunkType(3),
		"BLOCK_SIZE": InfoBlockSize, "info 4": InfoType(4),
		"none": TransmissionFlags(0), "HAS_FLAGS|SEND_FUA": FlagHasFlags | FlagSendFUA,
		"READ_ONLY|0x8000": FlagReadOnly | 1<<15, "FUA|PAYLOAD_LEN": CmdFlagFUA | CmdFlagPayloadLen,
	} {
		if got.String() != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if !(FlagHasFlags | FlagSendTrim).Has(FlagSendTrim) || FlagHasFlags.Has(FlagHasFlags|FlagSendTrim) {
		t.Error("Has does not ask for all bits")
	}
	if !CmdFlagFUA.Has(CmdFlagFUA) || CmdFlagFUA.Has(CmdFlagDF) {
		t.Error("Has does not ask for all bits")
	}
}
