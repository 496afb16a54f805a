// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"fmt"
	"unicode"
	"unicode/utf8"

	"github.com/hashicorp/go-plugin"

	pluginv1 "github.com/flexnbd/flexnbd/sdk/wire/proto/plugin/v1"
)

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

// Description is what a plugin says about itself.
type Description struct {
	Kind       Kind
	Name       string // 1 to 64 of a-z, 0-9 and "-"
	Version    string // at most 64 bytes of printable text; may be empty
	SDKVersion string // the same
}

// Check returns nil, or what is wrong with the description.
func (d Description) Check() error {
	switch {
	case d.Kind != KindBackend && d.Kind != KindTransport:
		return fmt.Errorf("unknown kind %d", d.Kind)
	case !ValidName(d.Name):
		return fmt.Errorf("name %.80q is not 1 to 64 of a-z, 0-9 and \"-\"", d.Name)
	case !validVersion(d.Version):
		return fmt.Errorf("version %.80q is not printable text of at most 64 bytes", d.Version)
	case !validVersion(d.SDKVersion):
		return fmt.Errorf("SDK version %.80q is not printable text of at most 64 bytes", d.SDKVersion)
	}
	return nil
}

// validVersion keeps what is shown to people on one line.
func validVersion(version string) bool {
	if len(version) > 64 || !utf8.ValidString(version) {
		return false
	}
	for _, r := range version {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}

// ValidName says whether name can be a plugin's name.
func ValidName(name string) bool {
	if len(name) == 0 || len(name) > 64 {
		return false
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

func (d Description) proto() *pluginv1.DescribeResponse {
	return &pluginv1.DescribeResponse{
		Kind:       pluginv1.Kind(d.Kind),
		Name:       d.Name,
		Version:    d.Version,
		SdkVersion: d.SDKVersion,
	}
}

func descriptionFromProto(p *pluginv1.DescribeResponse) Description {
	d := Description{Name: p.GetName(), Version: p.GetVersion(), SDKVersion: p.GetSdkVersion()}
	switch p.GetKind() {
	case pluginv1.Kind_KIND_BACKEND:
		d.Kind = KindBackend
	case pluginv1.Kind_KIND_TRANSPORT:
		d.Kind = KindTransport
	}
	return d
}
