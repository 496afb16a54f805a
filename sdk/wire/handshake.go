// SPDX-License-Identifier: Apache-2.0

package wire

import "github.com/hashicorp/go-plugin"

// ProtocolVersion is the major version of the wire that this package speaks. It
// is negotiated by go-plugin before any of our calls.
const ProtocolVersion = 1

// Handshake is the magic by which a binary knows that a flexnbd host started
// it. It keeps people from starting plugins by hand; it is no secret.
var Handshake = plugin.HandshakeConfig{
	MagicCookieKey:   "FLEXNBD_PLUGIN",
	MagicCookieValue: "a-store-or-a-way-to-reach-one",
}

// Environment of a plugin, besides what go-plugin sets.
const (
	// EnvDescriptorChannel holds the number of the inherited descriptor that
	// is the plugin's end of the [DescriptorChannel].
	EnvDescriptorChannel = "FLEXNBD_DESCRIPTOR_CHANNEL"
	// EnvLogLevel holds the lowest hclog level that the host will print.
	EnvLogLevel = "FLEXNBD_LOG_LEVEL"
)

// pluginName is the one name in go-plugin's plugin set. What a plugin is, its
// Description says.
const pluginName = "flexnbd"

// Lanes that a disk's data can take.
const (
	LaneRPC  = "rpc"  // inside gRPC calls
	LaneFile = "file" // the host's own, on a lent descriptor
	LaneRing = "ring" // in shared memory, over a socket for each connection
)

// Kind says what a plugin does.
type Kind uint8

// The kinds of plugin.
const (
	KindBackend Kind = iota + 1
	KindTransport
)

// String returns "backend" or "transport", as in a plugin's file name.
func (k Kind) String() string {
	switch k {
	case KindBackend:
		return "backend"
	case KindTransport:
		return "transport"
	}
	return "unknown"
}
