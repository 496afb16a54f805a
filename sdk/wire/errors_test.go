// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"math"
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/flexnbd/flexnbd/sdk/store"
	pluginv1 "github.com/flexnbd/flexnbd/sdk/wire/proto/plugin/v1"
)

func TestGarbageErrnoBecomesEIO(t *testing.T) {
	for _, no := range []int32{0, -1, -28, 4096, math.MaxInt32, math.MinInt32} {
		err := errorFromProto(&pluginv1.Error{Errno: no})
		if store.Errno(err) != syscall.EIO || err.Error() != syscall.EIO.Error() {
			t.Errorf("errno %d becomes %d, %q", no, store.Errno(err), err)
		}
	}
	if err := errorFromProto(&pluginv1.Error{Errno: 28, Message: "full"}); store.Errno(err) != syscall.ENOSPC || err.Error() != "full" {
		t.Errorf("errno 28 becomes %v", err)
	}
	if err := errorFromProto(nil); err != nil {
		t.Errorf("no error becomes %v", err)
	}
}

func TestReceivedTextIsCutToWholeLetters(t *testing.T) {
	err := errorFromProto(&pluginv1.Error{Errno: 5, Message: strings.Repeat("x", maxMessage-1) + "ü"})
	if got := err.Error(); got != strings.Repeat("x", maxMessage-1) {
		t.Errorf("%d bytes, ending in %q", len(got), got[len(got)-3:])
	}
}

func TestCallErrorsHaveTheirErrno(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		ctx  context.Context
		code codes.Code
		is   error
		no   syscall.Errno
	}{
		{t.Context(), codes.Unavailable, ErrPluginGone, syscall.EIO},
		{t.Context(), codes.Canceled, ErrPluginGone, syscall.EIO},
		{ended, codes.Canceled, context.Canceled, syscall.EIO},
		{t.Context(), codes.DeadlineExceeded, context.DeadlineExceeded, syscall.EIO},
		{t.Context(), codes.Unimplemented, store.ErrNotSupported, syscall.ENOTSUP},
		{t.Context(), codes.NotFound, store.ErrIO, syscall.EIO},
		{t.Context(), codes.Internal, store.ErrIO, syscall.EIO},
	} {
		err := callError(c.ctx, status.Error(c.code, "words"), nil)
		if !errors.Is(err, c.is) || store.Errno(err) != c.no {
			t.Errorf("%v becomes %v with errno %d", c.code, err, store.Errno(err))
		}
	}
}

func FuzzErrorFromProto(f *testing.F) {
	seed, err := proto.Marshal(&pluginv1.Error{Errno: 28, Message: "no space"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, b []byte) {
		var p pluginv1.Error
		if proto.Unmarshal(b, &p) != nil {
			return
		}
		err := errorFromProto(&p)
		if no := store.Errno(err); no <= 0 || no > 4095 {
			t.Errorf("errno %d", no)
		}
		if text := err.Error(); text == "" || len(text) > maxMessage || !utf8.ValidString(text) {
			t.Errorf("text of %d bytes: %.40q", len(text), text)
		}
	})
}
