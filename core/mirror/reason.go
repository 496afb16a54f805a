// SPDX-License-Identifier: GPL-3.0-or-later

package mirror

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/flexnbd/flexnbd/core/client"
	"github.com/flexnbd/flexnbd/core/nbd"
)

// The words with which the control socket says why a migration did not start.
// Scripts look for them, so they stay as they are; what happened follows behind a
// colon.
const (
	WordsConnect  = "Mirror failed to connect"
	WordsRejected = "Mirror was rejected"
	WordsSilent   = "Remote server failed to respond"
	WordsSize     = "Remote size does not match local size"
	WordsTooSmall = "Image too small to migrate"
	WordsRunning  = "mirror already running"
	WordsStopping = "shutting down"
	WordsOrder    = "unrecognised parameters to mirror"
	WordsRecords  = "The migration's records cannot be written"
	WordsLoss     = "Clients have not been told of lost writes"
)

// Reason is why a migration did not start, or why an attempt to connect failed:
// words that do not change, and what happened.
type Reason struct {
	Words string
	Err   error // may be nil
}

// Error is the words, a colon and what happened.
func (r *Reason) Error() string {
	if r.Err == nil {
		return r.Words
	}
	return r.Words + ": " + r.Err.Error()
}

// Unwrap returns what happened.
func (r *Reason) Unwrap() error { return r.Err }

// handshakeReason finds the words for an error of a handshake.
func handshakeReason(err error) *Reason {
	var reason *Reason
	var no *client.RefusedError
	switch {
	case errors.As(err, &reason):
		return reason
	case errors.As(err, &no) && no.Option == nbd.OptMigrate && no.Reply == nbd.RepErrUnknown:
		return &Reason{WordsSize, err}
	case errors.As(err, &no):
		return &Reason{WordsRejected, err}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return &Reason{WordsSilent, err}
	}
	return &Reason{WordsRejected, err} // hung up on, or spoken to in another language
}

// stoppedReason is for a start that Break or Close ended.
var stoppedReason = &Reason{WordsConnect, errors.New("it was stopped before it had begun")}

// errStopped is why everything of a migration ends at Break and Close.
var errStopped = errors.New("the migration was stopped")

// local marks an error of the local disk.
func local(what string, off, length int64, err error) error {
	return fmt.Errorf("%s %d bytes at %d of the local disk: %w", what, length, off, err)
}
