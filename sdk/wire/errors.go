// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/flexnbd/flexnbd/sdk/store"
	pluginv1 "github.com/flexnbd/flexnbd/sdk/wire/proto/plugin/v1"
)

// ErrPluginGone is inside the error of every call that could not be answered
// because the plugin's process, or the line to it, is gone. Its errno is EIO.
var ErrPluginGone = errors.New("the plugin is gone")

// maxMessage is the longest error text that crosses the wire, in bytes.
const maxMessage = 4096

// RemoteError is what a plugin's store or transport said. It unwraps to the
// errno, so that store.Errno finds on this side what it found on the other.
type RemoteError struct {
	Message string
	Errno   syscall.Errno
}

func (e *RemoteError) Error() string { return e.Message }

// Unwrap returns the errno.
func (e *RemoteError) Unwrap() error { return e.Errno }

func errorToProto(err error) *pluginv1.Error {
	if err == nil {
		return nil
	}
	return &pluginv1.Error{Errno: int32(store.Errno(err)), Message: cut(err.Error())}
}

// cut makes text fit for the wire: valid UTF-8 of at most maxMessage bytes.
func cut(text string) string {
	text = strings.ToValidUTF8(text, "?")
	if len(text) > maxMessage {
		text = strings.ToValidUTF8(text[:maxMessage], "") // half a letter at the end
	}
	return text
}

func errorFromProto(p *pluginv1.Error) error {
	if p == nil {
		return nil
	}
	e := &RemoteError{Message: cut(p.GetMessage()), Errno: syscall.Errno(p.GetErrno())}
	if p.GetErrno() <= 0 || p.GetErrno() > 4095 { // beyond what Linux uses
		e.Errno = syscall.EIO
	}
	if e.Message == "" {
		e.Message = e.Errno.Error()
	}
	return e
}

// endedContext makes the answer of a call that failed because its context ended
// into what gRPC says for that. The host's deadline travels with the call, and
// the store may notice first that it is over.
func endedContext(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	r, err := handle(ctx, req)
	if failed, ok := r.(interface{ GetError() *pluginv1.Error }); ok && err == nil && failed.GetError() != nil && ctx.Err() != nil {
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	return r, err
}

// callError makes the error of one call from what gRPC and the plugin said.
func callError(ctx context.Context, call error, remote *pluginv1.Error) error {
	if call == nil && remote == nil {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if call == nil {
		return errorFromProto(remote)
	}
	s := status.Convert(call)
	switch s.Code() {
	case codes.Unavailable, codes.Canceled:
		return fmt.Errorf("%w: %s", ErrPluginGone, s.Message())
	case codes.DeadlineExceeded: // the other end's clock was first
		return context.DeadlineExceeded
	case codes.Unimplemented:
		return fmt.Errorf("the plugin does not know this call: %s: %w", s.Message(), store.ErrNotSupported)
	}
	return fmt.Errorf("plugin call failed: %s: %s: %w", s.Code(), s.Message(), store.ErrIO)
}
