// SPDX-License-Identifier: GPL-3.0-or-later

package nbd

import (
	"errors"
	"fmt"
)

// What the decoders and parsers return. None of them means that the network
// failed; all of them mean that the peer broke the protocol, except ErrShort,
// which may also mean that the caller has not read enough yet.
var (
	// ErrMagic: the message does not start with its magic number.
	ErrMagic = errors.New("nbd: wrong magic number")

	// ErrShort: there are fewer bytes than the message needs.
	ErrShort = errors.New("nbd: message is incomplete")

	// ErrMalformed: a length, count or string breaks the protocol's rules. The
	// error that wraps it says which.
	ErrMalformed = errors.New("nbd: malformed message")

	// ErrOldstyle: the server greets in the oldstyle handshake.
	ErrOldstyle = errors.New("nbd: the server speaks the oldstyle handshake")

	// ErrTooBig: an option or its reply announces more data than is accepted.
	// The data has been skipped, so that the stream is still in step.
	ErrTooBig = errors.New("nbd: option data is too long")
)

// malformed is ErrMalformed with the particulars.
func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}
