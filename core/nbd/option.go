// SPDX-License-Identifier: GPL-3.0-or-later

package nbd

import "strconv"

// Option is what a client asks for during the handshake ("Option types").
type Option uint32

// The options.
const (
	OptExportName      Option = 1 // ends the handshake; cannot be answered with an error
	OptAbort           Option = 2
	OptList            Option = 3
	OptPeekExport      Option = 4 // withdrawn
	OptStartTLS        Option = 5
	OptInfo            Option = 6
	OptGo              Option = 7 // ends the handshake when acknowledged
	OptStructuredReply Option = 8
	OptListMetaContext Option = 9
	OptSetMetaContext  Option = 10
	OptExtendedHeaders Option = 11
)

var optionNames = [...]string{
	OptExportName: "EXPORT_NAME", OptAbort: "ABORT", OptList: "LIST", OptPeekExport: "PEEK_EXPORT",
	OptStartTLS: "STARTTLS", OptInfo: "INFO", OptGo: "GO", OptStructuredReply: "STRUCTURED_REPLY",
	OptListMetaContext: "LIST_META_CONTEXT", OptSetMetaContext: "SET_META_CONTEXT",
	OptExtendedHeaders: "EXTENDED_HEADERS",
}

// String returns the protocol's name without its prefix.
func (o Option) String() string {
	if o > 0 && int64(o) < int64(len(optionNames)) {
		return optionNames[o]
	}
	if o == OptMigrate {
		return "MIGRATE"
	}
	return "option " + strconv.FormatUint(uint64(o), 10)
}

// Reply is the type of an answer to an option ("Option reply types").
type Reply uint32

// The reply types. Errors have bit 31 set and may carry a text for people.
const (
	RepAck         Reply = 1
	RepServer      Reply = 2
	RepInfo        Reply = 3
	RepMetaContext Reply = 4

	RepErrUnsup         Reply = 1<<31 + 1 // this server does not know the option
	RepErrPolicy        Reply = 1<<31 + 2 // known, but not allowed here
	RepErrInvalid       Reply = 1<<31 + 3 // malformed, or at the wrong moment
	RepErrPlatform      Reply = 1<<31 + 4 // not possible on the server's platform
	RepErrTLSReqd       Reply = 1<<31 + 5
	RepErrUnknown       Reply = 1<<31 + 6 // no such export
	RepErrShutdown      Reply = 1<<31 + 7
	RepErrBlockSizeReqd Reply = 1<<31 + 8 // the client has to ask for InfoBlockSize
	RepErrTooBig        Reply = 1<<31 + 9
	RepErrExtHeaderReqd Reply = 1<<31 + 10
)

var replyNames = map[Reply]string{
	RepAck: "ACK", RepServer: "SERVER", RepInfo: "INFO", RepMetaContext: "META_CONTEXT",
	RepErrUnsup: "ERR_UNSUP", RepErrPolicy: "ERR_POLICY", RepErrInvalid: "ERR_INVALID",
	RepErrPlatform: "ERR_PLATFORM", RepErrTLSReqd: "ERR_TLS_REQD", RepErrUnknown: "ERR_UNKNOWN",
	RepErrShutdown: "ERR_SHUTDOWN", RepErrBlockSizeReqd: "ERR_BLOCK_SIZE_REQD",
	RepErrTooBig: "ERR_TOO_BIG", RepErrExtHeaderReqd: "ERR_EXT_HEADER_REQD",
	RepMigrate: "MIGRATE",
}

// IsError reports whether the reply refuses the option.
func (r Reply) IsError() bool { return r&(1<<31) != 0 }

// String returns the protocol's name without its prefix.
func (r Reply) String() string {
	if name, ok := replyNames[r]; ok {
		return name
	}
	return "reply 0x" + strconv.FormatUint(uint64(r), 16)
}

// InfoType is a kind of information about an export, asked for and given under
// OptInfo and OptGo ("Option reply types", REP_INFO).
type InfoType uint16

// The information types.
const (
	InfoExport      InfoType = 0 // size and flags; always given
	InfoName        InfoType = 1
	InfoDescription InfoType = 2
	InfoBlockSize   InfoType = 3
)

// String returns the protocol's name without its prefix.
func (i InfoType) String() string {
	switch i {
	case InfoExport:
		return "EXPORT"
	case InfoName:
		return "NAME"
	case InfoDescription:
		return "DESCRIPTION"
	case InfoBlockSize:
		return "BLOCK_SIZE"
	}
	return "info " + strconv.Itoa(int(i))
}
