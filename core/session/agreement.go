// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"github.com/flexnbd/flexnbd/core/export"
	"github.com/flexnbd/flexnbd/core/nbd"
)

// agreement is what the handshake ends with.
type agreement struct {
	flags      nbd.TransmissionFlags
	oldstyle   bool   // the handshake was
	structured bool   // structured replies
	allocation bool   // base:allocation may be queried
	sender     Sender // not nil where somebody migrates a disk to this server
	commitOnly bool   // the sender came to send COMMIT, and nothing else
}

// allocationID is the metadata context id of base:allocation.
const allocationID = 1

// exportName is the name of the one export: the default one.
const exportName = ""

// MaxRequest is the longest READ or WRITE, in bytes. The manual's read and write
// send one request of up to this.
const MaxRequest = 1 << 30

// transmissionFlags says what the export can do, to a client that has or has not
// asked for structured replies.
func transmissionFlags(e *export.Export, structured bool) nbd.TransmissionFlags {
	// CAN_MULTI_CONN: all connections share the export, whose flush covers the
	// writes of each of them.
	flags := nbd.FlagHasFlags | nbd.FlagSendFlush | nbd.FlagSendFUA | nbd.FlagCanMultiConn | nbd.FlagSendCache
	switch {
	case e.ReadOnly():
		flags |= nbd.FlagReadOnly
	case e.Info().CanFast:
		flags |= nbd.FlagSendTrim | nbd.FlagSendWriteZeroes | nbd.FlagSendFastZero
	default:
		flags |= nbd.FlagSendTrim | nbd.FlagSendWriteZeroes
	}
	if structured {
		flags |= nbd.FlagSendDF
	}
	return flags
}

// blockSizes are the export's size constraints. Requests are byte-granular
// whatever the store prefers.
func blockSizes(e *export.Export) nbd.BlockSizes {
	sizes := nbd.BlockSizes{Minimum: 1, Preferred: 4096, MaxPayload: MaxRequest}
	if preferred := e.Info().PreferredBlock; preferred != 0 {
		sizes.Preferred = preferred
	}
	return sizes
}
