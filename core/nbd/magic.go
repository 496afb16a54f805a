// SPDX-License-Identifier: GPL-3.0-or-later

package nbd

// The magic numbers of the handshake ("Newstyle negotiation", "Fixed newstyle
// negotiation", "Oldstyle negotiation").
const (
	MagicInit        uint64 = 0x4e42444d41474943 // "NBDMAGIC", the first thing a server says
	MagicOption      uint64 = 0x49484156454f5054 // "IHAVEOPT", of newstyle and of each option
	MagicOptionReply uint64 = 0x0003e889045565a9
	MagicOldstyle    uint64 = 0x0000420281861253 // stands where newstyle has MagicOption
)

// The magic numbers of the transmission phase ("Request message" and the
// sections after it). The extended ones are named so that they can be
// recognised; this package does not encode extended headers.
const (
	MagicRequest         uint32 = 0x25609513
	MagicSimpleReply     uint32 = 0x67446698
	MagicStructuredReply uint32 = 0x668e33ef
	MagicExtendedRequest uint32 = 0x21e41c71
	MagicExtendedReply   uint32 = 0x6e8a278c
)
