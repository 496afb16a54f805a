// SPDX-License-Identifier: GPL-3.0-or-later

package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// Failures on the caller's side of a request. The errors that wrap them wrap
// the reader's or writer's own error, too.
var (
	// ErrInput: the reader given to WriteFrom failed, or ended too early; then
	// the error wraps io.ErrUnexpectedEOF as well. A prefix of the range may
	// have been written.
	ErrInput = errors.New("reading the input failed")

	// ErrOutput: the writer given to ReadTo failed.
	ErrOutput = errors.New("writing the output failed")
)

// Refusals that need no server, made before anything is sent. The connection
// remains usable.
var (
	// ErrOutOfRange: the request is not inside the export.
	ErrOutOfRange = errors.New("out of range")

	// ErrReadOnly: the export takes no writes.
	ErrReadOnly = errors.New("the export is read-only")

	// ErrUnsupported: the server does not offer what is asked for, or has
	// promised to fail it: a flush, a request that is longer than its maximum
	// payload or not a multiple of its minimum block size.
	ErrUnsupported = errors.New("not supported by the server")
)

// RefusedError is a server's refusal during the handshake.
type RefusedError struct {
	Option  nbd.Option
	Reply   nbd.Reply
	Message string // the server's own words, any bytes; may be empty
}

func (e *RefusedError) Error() string {
	msg := refusal(e.Reply)
	if e.Option == nbd.OptMigrate {
		msg = refusedMigration(e.Reply)
	}
	if e.Message != "" {
		msg += fmt.Sprintf("; the server says %q", e.Message)
	}
	return msg
}

// refusal says what a reply means and what to do about it.
func refusal(r nbd.Reply) string {
	switch r {
	case nbd.RepErrUnknown:
		return "no such export on this server (ERR_UNKNOWN)"
	case nbd.RepErrPolicy:
		return "the server's policy forbids it (ERR_POLICY)"
	case nbd.RepErrTLSReqd:
		return "the server insists on TLS, which this client does not speak (ERR_TLS_REQD)"
	case nbd.RepErrShutdown:
		return "the server is shutting down (ERR_SHUTDOWN)"
	case nbd.RepErrExtHeaderReqd:
		return "the server insists on extended headers, which this client does not speak (ERR_EXT_HEADER_REQD)"
	}
	return fmt.Sprintf("the server refused (%v)", r)
}

// refusedMigration says the same of the option for migrations.
func refusedMigration(r nbd.Reply) string {
	switch r {
	case nbd.RepErrUnknown:
		return "the server's disk is not the one to migrate to: most likely its size differs (ERR_UNKNOWN)"
	case nbd.RepErrPolicy:
		return "the server does not take this migration (ERR_POLICY)"
	case nbd.RepErrInvalid:
		return "the server does not understand this migration (ERR_INVALID)"
	}
	return refusal(r)
}

// RequestError is a request that failed. Err is an [nbd.Errno] when the server
// has refused it.
type RequestError struct {
	Command nbd.Command
	Offset  uint64
	Length  uint32
	Err     error
}

func (e *RequestError) Error() string {
	if e.Command == nbd.CmdFlush {
		return fmt.Sprintf("FLUSH: %v", e.Err)
	}
	return fmt.Sprintf("%v of %d bytes at offset %d: %v", e.Command, e.Length, e.Offset, e.Err)
}

// Unwrap returns the reason.
func (e *RequestError) Unwrap() error { return e.Err }

// handshakeTimeout is how long the handshake was allowed to take.
type handshakeTimeout time.Duration

func (t handshakeTimeout) Error() string {
	return fmt.Sprintf("the server did not complete the handshake within %v", time.Duration(t))
}

func (handshakeTimeout) Is(target error) bool { return target == context.DeadlineExceeded }

// Timeout makes it look like any other time-out to callers that ask.
func (handshakeTimeout) Timeout() bool { return true }
