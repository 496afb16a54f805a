// SPDX-License-Identifier: Apache-2.0

package transporttest

import (
	"net"
	"testing"

	"github.com/flexnbd/flexnbd/sdk/transport"
)

// Factory makes the subject of one clause. It is called anew for each, and
// cleans up with tb.Cleanup.
type Factory func(tb testing.TB) Subject

// Subject is a transport and what the suite must know to try it. Clauses that
// need a field left zero leave out what they need it for.
type Subject struct {
	Transport transport.Transport

	// Listen is where to listen; nobody listens there yet. Where port 0
	// stands for any free port, leave it 0.
	Listen transport.Address

	// PeerAddress tells what Peer.Address must say on the accepted side,
	// given the socket on the dialled side; see [LocalAddress]. Nil for a
	// transport whose clients have no address.
	PeerAddress func(dialled net.Conn) string

	// Bind is a local address to dial Listen from, with port 0, other than
	// the one that is taken without being asked. Zero for a transport that
	// has no such choice.
	Bind transport.Address

	// Unresponsive is an address at which a Dial neither succeeds nor fails
	// by itself for at least ten seconds. Zero if there is none.
	Unresponsive transport.Address

	// PIDs are further processes whose descriptors are to be counted when
	// leaks are looked for: the plugin's.
	PIDs []int
}

// LocalAddress is a [Subject]'s PeerAddress for transports whose accepted side
// sees the dialled side's own address, as TCP's does without translation.
func LocalAddress(dialled net.Conn) string {
	return dialled.LocalAddr().String()
}
