// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"bytes"
	"encoding/hex"
	"strings"
	"syscall"
	"testing"

	"github.com/flexnbd/flexnbd/sdk/store"
)

// The bytes are those of the page, field by field.
func TestMessagesAreAsThePageHasThem(t *testing.T) {
	r := Request{Cookie: 0x0807060504030201, Offset: 0x1817161514131211, Length: 0x24232221, Payload: 0x34333231, Op: OpWrite, Flags: store.FUA}
	want, _ := hex.DecodeString("0102030405060708" + "1112131415161718" + "21222324" + "31323334" + "0200" + "0100" + "00000000")
	if got := r.Append(nil); !bytes.Equal(got, want) {
		t.Errorf("the request is %x, want %x", got, want)
	}
	if got, reserved := DecodeRequest(want); got != r || reserved != 0 {
		t.Errorf("%x reads as %+v, %d", want, got, reserved)
	}
	c := Completion{Cookie: 0x0807060504030201, Length: 0x24232221, Errno: syscall.ENOSPC}
	want, _ = hex.DecodeString("0102030405060708" + "21222324" + "1c000000")
	if got := c.Append(nil); !bytes.Equal(got, want) {
		t.Errorf("the completion is %x, want %x", got, want)
	}
	if got := DecodeCompletion(want); got != c {
		t.Errorf("%x reads as %+v", want, got)
	}
}

const testMemory = 1 << 20

func TestRequestsAreChecked(t *testing.T) {
	good := Request{Op: OpRead, Offset: 4096, Length: 4096, Payload: testMemory - 4096}
	if err := good.check(8192, testMemory); err != nil {
		t.Errorf("a good one: %v", err)
	}
	for words, change := range map[string]func(*Request){
		"operation 0":         func(r *Request) { r.Op = 0 },
		"operation 5":         func(r *Request) { r.Op = 5 },
		"on a disk of 8192":   func(r *Request) { r.Offset++ },
		"at -1":               func(r *Request) { r.Offset = -1 },
		"of 4097 bytes":       func(r *Request) { r.Length++ },
		"zero of 4097":        func(r *Request) { r.Op = OpZero; r.Length++ },
		"in a memory of 1048": func(r *Request) { r.Payload++ },
		"at 4294967295 in":    func(r *Request) { r.Op = OpWrite; r.Payload = 1<<32 - 1 },
	} {
		r := good
		change(&r)
		if err := r.check(8192, testMemory); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%+v: %v, want %q", r, err, words)
		}
	}
}

func TestCompletionsAreChecked(t *testing.T) {
	for _, good := range []Completion{{Length: 10}, {Errno: syscall.EIO}, {Errno: maxErrno}} {
		if err := good.Check(10); err != nil {
			t.Errorf("%+v: %v", good, err)
		}
	}
	for _, bad := range []Completion{{}, {Length: 9}, {Length: 11}, {Length: 10, Errno: syscall.EIO}, {Errno: maxErrno + 1}, {Errno: 1<<32 - 1}} {
		if bad.Check(10) == nil {
			t.Errorf("%+v passes for a request of 10 bytes", bad)
		}
	}
}

func FuzzMessages(f *testing.F) {
	f.Add(make([]byte, RequestSize))
	f.Add(Request{Cookie: 1, Op: OpZero, Length: 1 << 20}.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < RequestSize {
			return
		}
		if r, reserved := DecodeRequest(b); reserved == 0 && !bytes.Equal(r.Append(nil), b[:RequestSize]) {
			t.Errorf("request %x becomes %x", b[:RequestSize], r.Append(nil))
		}
		if c := DecodeCompletion(b); !bytes.Equal(c.Append(nil), b[:CompletionSize]) {
			t.Errorf("completion %x becomes %x", b[:CompletionSize], c.Append(nil))
		}
	})
}
