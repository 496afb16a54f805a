// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"syscall"
	"testing"

	"github.com/flexnbd/flexnbd/core/export"
	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/sdk/store"
)

func TestEachCommand(t *testing.T) {
	both(t, func(t *testing.T, structured bool) {
		d := newDisk(testSize)
		c := enter(t, Config{Export: open(t, d)}, structured)
		data := numbered(10000)
		c.must(nbd.CmdWrite, 0, 777, 10000, data)
		if got := c.must(nbd.CmdRead, 0, 777, 10000); !bytes.Equal(got.data, data) {
			t.Error("read something else than was written")
		}
		c.must(nbd.CmdWriteZeroes, 0, 1000, 100)
		clear(data[223:323])
		if got := c.must(nbd.CmdRead, 0, 777, 10000); !bytes.Equal(got.data, data) {
			t.Error("read something else than was written and zeroed")
		}
		c.must(nbd.CmdTrim, 0, 4096, 4096)
		c.must(nbd.CmdFlush, 0, 0, 0)
		c.leave()
		if got := d.took("flush"); len(got) != 1 {
			t.Errorf("flushed %d times", len(got))
		}
	})
}

// TestFlagsReachTheStore checks what each command asks of the store.
func TestFlagsReachTheStore(t *testing.T) {
	for _, test := range []struct {
		cmd   nbd.Command
		flags nbd.CommandFlags
		op    string
		want  store.Flags
	}{
		{nbd.CmdWrite, 0, "write", 0},
		{nbd.CmdWrite, nbd.CmdFlagFUA, "write", store.FUA},
		{nbd.CmdTrim, 0, "punch", store.Discard},
		{nbd.CmdTrim, nbd.CmdFlagFUA, "punch", store.Discard | store.FUA},
		{nbd.CmdWriteZeroes, 0, "punch", 0},
		{nbd.CmdWriteZeroes, nbd.CmdFlagNoHole, "punch", store.KeepAllocated},
		{nbd.CmdWriteZeroes, nbd.CmdFlagNoHole | nbd.CmdFlagFUA, "punch", store.KeepAllocated | store.FUA},
		{nbd.CmdWriteZeroes, nbd.CmdFlagFastZero, "punch", store.Fast},
		{nbd.CmdWriteZeroes, nbd.CmdFlagFastZero | nbd.CmdFlagFUA, "punch", store.Fast | store.FUA},
		{nbd.CmdCache, nbd.CmdFlagFUA, "read", 0},
	} {
		d := newDisk(testSize)
		d.info.CanDiscard = true
		c := simple(t, open(t, d))
		var payload []byte
		if test.cmd == nbd.CmdWrite {
			payload = numbered(4096)
		}
		c.must(test.cmd, test.flags, 4096, 4096, payload)
		if got := d.took(test.op); len(got) != 1 || got[0].flags != test.want {
			t.Errorf("%v with %v: the store got %+v", test.cmd, test.flags, got)
		}
	}
}

func TestChecklist14FUAIsAcceptedEverywhere(t *testing.T) {
	c := structured(t, open(t, newDisk(testSize)))
	c.must(nbd.CmdRead, nbd.CmdFlagFUA, 0, 512)
	c.must(nbd.CmdRead, nbd.CmdFlagFUA|nbd.CmdFlagDF, 0, 512)
	c.must(nbd.CmdWrite, nbd.CmdFlagFUA, 0, 512, numbered(512))
	c.must(nbd.CmdFlush, nbd.CmdFlagFUA, 0, 0)
	c.must(nbd.CmdTrim, nbd.CmdFlagFUA, 0, 512)
	c.must(nbd.CmdWriteZeroes, nbd.CmdFlagFUA, 0, 512)
	c.must(nbd.CmdBlockStatus, nbd.CmdFlagFUA|nbd.CmdFlagReqOne, 0, 512)
	c.must(nbd.CmdCache, nbd.CmdFlagFUA, 0, 512)
	if got := c.do(9, nbd.CmdFlagFUA, 0, 512); got.errno != nbd.EINVAL {
		t.Errorf("an unknown command with FUA: %v", got.errno)
	}
	c.leave()
}

// TestChecklist13RefusedRequests goes through what is refused, each with the error that the
// order of checks gives it. The connection lives on, in step.
func TestChecklist13RefusedRequests(t *testing.T) {
	const size = testSize + 1
	type test struct {
		cmd    nbd.Command
		flags  nbd.CommandFlags
		off    uint64
		length uint32
		want   nbd.Errno
	}
	const bad = 1 << 14
	writable := []test{
		{nbd.CmdRead, 0, size, 1, nbd.EINVAL},
		{nbd.CmdRead, 0, size - 1, 2, nbd.EINVAL},
		{nbd.CmdRead, 0, math.MaxUint64, 2, nbd.EINVAL},
		{nbd.CmdRead, 0, math.MaxUint64, 1, nbd.EINVAL},
		{nbd.CmdRead, 0, 1 << 63, 1, nbd.EINVAL},
		{nbd.CmdRead, 0, 0, math.MaxUint32, nbd.EINVAL},
		{nbd.CmdRead, 0, size + 1, 0, nbd.EINVAL},
		{nbd.CmdWrite, 0, size, 1, nbd.ENOSPC},
		{nbd.CmdWrite, 0, size - 1, 2, nbd.ENOSPC},
		{nbd.CmdWrite, 0, math.MaxUint64, 2, nbd.ENOSPC},
		{nbd.CmdWrite, bad, size, 70000, nbd.ENOSPC}, // range before flags
		{nbd.CmdWriteZeroes, 0, math.MaxUint64, 2, nbd.ENOSPC},
		{nbd.CmdWriteZeroes, 0, 1, size, nbd.ENOSPC},
		{nbd.CmdTrim, 0, size, 1, nbd.EINVAL},
		{nbd.CmdTrim, 0, 0, math.MaxUint32, nbd.EINVAL},
		{nbd.CmdTrim, 0, math.MaxUint64, 2, nbd.EINVAL},
		{nbd.CmdRead, nbd.CmdFlagNoHole, 0, 1, nbd.EINVAL},
		{nbd.CmdRead, nbd.CmdFlagReqOne, 0, 1, nbd.EINVAL},
		{nbd.CmdRead, nbd.CmdFlagPayloadLen, 0, 1, nbd.EINVAL},
		{nbd.CmdRead, bad, 0, 0, nbd.EINVAL},
		{nbd.CmdWrite, nbd.CmdFlagDF, 0, 5, nbd.EINVAL},
		{nbd.CmdWrite, bad, 0, 70000, nbd.EINVAL},
		{nbd.CmdWrite, nbd.CmdFlagPayloadLen, 0, 5, nbd.EINVAL},
		{nbd.CmdFlush, nbd.CmdFlagNoHole, 0, 0, nbd.EINVAL},
		{nbd.CmdTrim, nbd.CmdFlagNoHole, 0, 1, nbd.EINVAL},
		{nbd.CmdWrite, nbd.CmdFlagFastZero, 0, 1, nbd.EINVAL},
		{nbd.CmdTrim, nbd.CmdFlagFastZero, 0, 1, nbd.EINVAL},
		{nbd.CmdWriteZeroes, nbd.CmdFlagDF, 0, 1, nbd.EINVAL},
		{nbd.CmdCache, 0, size, 1, nbd.EINVAL},
		{nbd.CmdCache, 0, math.MaxUint64, 2, nbd.EINVAL},
		{nbd.CmdCache, nbd.CmdFlagDF, 0, 4096, nbd.EINVAL},
		{nbd.CmdCache, bad, 0, 4096, nbd.EINVAL},
		{nbd.CmdResize, 0, 4096, 0, nbd.EINVAL},
		{9, 0, 0, 4096, nbd.EINVAL},
		{math.MaxUint16, math.MaxUint16, math.MaxUint64, math.MaxUint32, nbd.EINVAL},
	}
	readOnly := []test{
		{nbd.CmdWrite, 0, 0, 70000, nbd.EPERM},
		{nbd.CmdWrite, bad, size, 70000, nbd.EPERM}, // read-only before all
		{nbd.CmdWrite, 0, 0, 0, nbd.EPERM},
		{nbd.CmdTrim, 0, 0, 10, nbd.EPERM},
		{nbd.CmdWriteZeroes, 0, math.MaxUint64, 10, nbd.EPERM},
		{nbd.CmdRead, 0, size, 1, nbd.EINVAL},
		{nbd.CmdResize, 0, 4096, 0, nbd.EINVAL},
	}
	both(t, func(t *testing.T, structured bool) {
		for _, tests := range []struct {
			options export.Options
			tests   []test
		}{{export.Options{}, writable}, {export.Options{ReadOnly: true}, readOnly}} {
			d := newDisk(size)
			c := enter(t, Config{Export: openWith(t, d, tests.options)}, structured)
			for _, test := range tests.tests {
				var payload []byte
				if test.cmd == nbd.CmdWrite { // what the server does not take off breaks the stream
					payload = bytes.Repeat([]byte{0x25}, int(test.length))
				}
				if got := c.do(test.cmd, test.flags, test.off, test.length, payload); got.errno != test.want {
					t.Errorf("%v %v %d+%d: got %v (%s), want %v", test.cmd, test.flags, test.off, test.length, got.errno, got.message, test.want)
				} else if structured && got.message == "" {
					t.Errorf("%v %v: no word of explanation", test.cmd, test.flags)
				}
			}
			c.alive()
			c.leave()
			if n := len(d.took("write")) + len(d.took("punch")) + len(d.took("read")); n != 0 {
				t.Errorf("%d refused requests reached the store", n)
			}
		}
	})
}

func TestChecklist15DFNeedsStructuredReplies(t *testing.T) {
	if got := simple(t, open(t, newDisk(testSize))).do(nbd.CmdRead, nbd.CmdFlagDF, 0, 512); got.errno != nbd.EINVAL {
		t.Errorf("DF with simple replies: %v", got.errno)
	}
	structured(t, open(t, newDisk(testSize))).must(nbd.CmdRead, nbd.CmdFlagDF, 0, 512)
}

func TestChecklist18ZeroLengthRequests(t *testing.T) {
	both(t, func(t *testing.T, structured bool) {
		d := newDisk(testSize)
		c := enter(t, Config{Export: open(t, d)}, structured)
		for _, cmd := range []nbd.Command{nbd.CmdRead, nbd.CmdWrite, nbd.CmdTrim, nbd.CmdWriteZeroes, nbd.CmdCache} {
			for _, off := range []uint64{0, testSize} {
				if got := c.must(cmd, nbd.CmdFlagFUA, off, 0); len(got.data) != 0 {
					t.Errorf("%v of no bytes was answered with %d", cmd, len(got.data))
				}
			}
		}
		c.leave()
		if len(d.calls) != 0 {
			t.Errorf("requests for nothing reached the store: %+v", d.calls)
		}
	})
}

func TestDiskWithoutBytes(t *testing.T) {
	c := structured(t, open(t, newDisk(0)))
	c.must(nbd.CmdRead, 0, 0, 0)
	if got := c.do(nbd.CmdWrite, 0, 0, 1, []byte{1}); got.errno != nbd.ENOSPC {
		t.Errorf("got %v", got.errno)
	}
	c.alive()
	c.leave()
}

// TestChecklist13ErrnoOfTheStore checks what a client is told about a store's error.
func TestChecklist13ErrnoOfTheStore(t *testing.T) {
	for _, test := range []struct {
		err  error
		want nbd.Errno
	}{
		{syscall.EPERM, nbd.EPERM},
		{syscall.EROFS, nbd.EPERM},
		{syscall.EACCES, nbd.EPERM},
		{syscall.EIO, nbd.EIO},
		{syscall.ENOMEM, nbd.ENOMEM},
		{syscall.EINVAL, nbd.EINVAL},
		{syscall.ENOSPC, nbd.ENOSPC},
		{syscall.EDQUOT, nbd.ENOSPC},
		{syscall.EFBIG, nbd.ENOSPC},
		{fmt.Errorf("the pool is full: %w", syscall.ENOSPC), nbd.ENOSPC},
		{syscall.EOVERFLOW, nbd.EIO}, // only for DF and oversize
		{syscall.ENOTSUP, nbd.EINVAL},
		{syscall.ENOSYS, nbd.EINVAL},
		{syscall.ETIMEDOUT, nbd.EIO},
		{syscall.ESHUTDOWN, nbd.ESHUTDOWN},
		{os.ErrPermission, nbd.EPERM},
		{errors.New("no errno"), nbd.EIO},
	} {
		both(t, func(t *testing.T, structured bool) {
			d := newDisk(testSize)
			c := enter(t, Config{Export: open(t, d)}, structured)
			d.on(func(diskCall) error { return test.err })
			for _, cmd := range []nbd.Command{nbd.CmdRead, nbd.CmdWrite, nbd.CmdWriteZeroes} {
				var payload []byte
				if cmd == nbd.CmdWrite {
					payload = numbered(512)
				}
				if got := c.do(cmd, 0, 0, 512, payload); got.errno != test.want {
					t.Errorf("%v that failed with %v: got %v, want %v", cmd, test.err, got.errno, test.want)
				}
			}
			d.on(nil)
			c.alive()
			c.leave()
		})
	}
}

func TestChecklist12WrongMagicIsAnsweredThenTheEnd(t *testing.T) {
	both(t, func(t *testing.T, structured bool) {
		c := enter(t, Config{Export: open(t, newDisk(testSize))}, structured)
		good, _ := c.request(nbd.CmdRead, 0, 0, 4096)
		bad, cookie := c.request(nbd.CmdWrite, 0, 0, 8)
		bad[3]++
		c.say(good, bad, numbered(8))
		answers := c.all(2) // the one before is answered too
		if got := answers[cookie]; got == nil || got.errno != nbd.EINVAL {
			t.Errorf("got %+v", answers)
		}
		c.wantEnd()
		_ = c.Close()
		c.wantResult(false)
	})
}

func TestClientThatLeavesInTheMiddleOfAHeader(t *testing.T) {
	c := simple(t, open(t, newDisk(testSize)))
	b, _ := c.request(nbd.CmdRead, 0, 0, 4096)
	c.say(b[:20])
	c.halfClose()
	c.wantEnd()
	c.wantResult(false)
}

func TestClientThatLeavesWithoutAWord(t *testing.T) {
	c := simple(t, open(t, newDisk(testSize)))
	c.alive()
	_ = c.Close()
	c.wantResult(true)
}

// TestRequestsBehindTheHandshake has a client that does not wait for the answer
// to its last option.
func TestRequestsBehindTheHandshake(t *testing.T) {
	c := haggle(t)
	b, cookie := c.request(nbd.CmdFlush, 0, 0, 0)
	c.say(nbd.AppendOption(nil, nbd.OptExportName, nil), b)
	c.take(nbd.ExportNameReplySize)
	if got := c.next(); got.cookie != cookie || got.errno != 0 {
		t.Errorf("got %+v", got)
	}
}
