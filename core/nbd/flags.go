// SPDX-License-Identifier: GPL-3.0-or-later

package nbd

import (
	"strconv"
	"strings"
)

// HandshakeFlags are the 16 bits in a server's greeting ("Handshake flags").
type HandshakeFlags uint16

// The handshake flags. A server sets no others; a client ignores others.
const (
	FlagFixedNewstyle HandshakeFlags = 1 << 0
	FlagNoZeroes      HandshakeFlags = 1 << 1
)

// ClientFlags are the 32 bits with which a client answers the greeting ("Client
// flags"). A server drops a client that sets a bit it does not know or did not
// offer.
type ClientFlags uint32

// The client flags. Each answers the handshake flag of the same bit.
const (
	FlagClientFixedNewstyle ClientFlags = 1 << 0
	FlagClientNoZeroes      ClientFlags = 1 << 1
)

// TransmissionFlags are the 16 bits that say what an export can do
// ("Transmission flags").
type TransmissionFlags uint16

// The transmission flags.
const (
	FlagHasFlags           TransmissionFlags = 1 << 0 // always set
	FlagReadOnly           TransmissionFlags = 1 << 1
	FlagSendFlush          TransmissionFlags = 1 << 2 // CmdFlush
	FlagSendFUA            TransmissionFlags = 1 << 3 // CmdFlagFUA
	FlagRotational         TransmissionFlags = 1 << 4
	FlagSendTrim           TransmissionFlags = 1 << 5 // CmdTrim
	FlagSendWriteZeroes    TransmissionFlags = 1 << 6 // CmdWriteZeroes, CmdFlagNoHole
	FlagSendDF             TransmissionFlags = 1 << 7 // CmdFlagDF; only with structured replies
	FlagCanMultiConn       TransmissionFlags = 1 << 8 // a flush covers all connections
	FlagSendResize         TransmissionFlags = 1 << 9 // CmdResize, experimental
	FlagSendCache          TransmissionFlags = 1 << 10
	FlagSendFastZero       TransmissionFlags = 1 << 11 // CmdFlagFastZero
	FlagBlockStatusPayload TransmissionFlags = 1 << 12 // only with extended headers
)

var transmissionFlagNames = []string{
	"HAS_FLAGS", "READ_ONLY", "SEND_FLUSH", "SEND_FUA", "ROTATIONAL", "SEND_TRIM",
	"SEND_WRITE_ZEROES", "SEND_DF", "CAN_MULTI_CONN", "SEND_RESIZE", "SEND_CACHE",
	"SEND_FAST_ZERO", "BLOCK_STATUS_PAYLOAD",
}

// Has reports whether all bits of want are set.
func (f TransmissionFlags) Has(want TransmissionFlags) bool { return f&want == want }

// String lists the flags by the protocol's names, joined by "|".
func (f TransmissionFlags) String() string {
	return flagString(uint16(f), transmissionFlagNames)
}

// CommandFlags are the 16 bits that modify one request ("Command flags").
type CommandFlags uint16

// The command flags, each with the commands it is valid for.
const (
	CmdFlagFUA        CommandFlags = 1 << 0 // any command, where FlagSendFUA is advertised
	CmdFlagNoHole     CommandFlags = 1 << 1 // CmdWriteZeroes
	CmdFlagDF         CommandFlags = 1 << 2 // CmdRead
	CmdFlagReqOne     CommandFlags = 1 << 3 // CmdBlockStatus
	CmdFlagFastZero   CommandFlags = 1 << 4 // CmdWriteZeroes
	CmdFlagPayloadLen CommandFlags = 1 << 5 // only with extended headers
)

var commandFlagNames = []string{"FUA", "NO_HOLE", "DF", "REQ_ONE", "FAST_ZERO", "PAYLOAD_LEN"}

// Has reports whether all bits of want are set.
func (f CommandFlags) Has(want CommandFlags) bool { return f&want == want }

// String lists the flags by the protocol's names, joined by "|".
func (f CommandFlags) String() string {
	return flagString(uint16(f), commandFlagNames)
}

// flagString names the set bits of v; bits without a name come last, in hex.
func flagString(v uint16, names []string) string {
	if v == 0 {
		return "none"
	}
	var set []string
	for i, name := range names {
		if bit := uint16(1) << i; v&bit != 0 {
			set = append(set, name)
			v &^= bit
		}
	}
	if v != 0 {
		set = append(set, "0x"+strconv.FormatUint(uint64(v), 16))
	}
	return strings.Join(set, "|")
}

// The status bits of the metadata context base:allocation ("base:allocation
// metadata context"). A range may be a hole and yet not read as zeroes.
const (
	StateHole uint32 = 1 << 0 // no space is allocated
	StateZero uint32 = 1 << 1 // reads as zeroes
)

// BaseAllocation is the name of the one metadata context that the protocol
// itself defines, and BaseNamespace the query that lists it and its like.
const (
	BaseAllocation = "base:allocation"
	BaseNamespace  = "base:"
)
