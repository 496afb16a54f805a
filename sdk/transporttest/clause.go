// SPDX-License-Identifier: Apache-2.0

package transporttest

import (
	"context"

	"github.com/flexnbd/flexnbd/sdk/transport"
)

// Clause is one promise of the contract.
type Clause struct {
	Name string // of the subtest, too
	Says string // where the contract says so, and what it says
}

// Clauses returns the whole contract, in the order in which it is checked.
func Clauses() []Clause {
	var all []Clause
	for _, c := range clauses {
		all = append(all, c.public())
	}
	return all
}

// clause is one promise and how it is checked. Its check returns what is wrong, and
// does not use testing.T, so that the suite's own tests can watch it fail.
type clause struct {
	name  string
	says  string
	check func(context.Context, *trial) error
}

func (c clause) public() Clause { return Clause{Name: c.name, Says: c.says} }

// leftOut says what the subject lacks for the clause to check anything at all, "" if
// it lacks nothing.
func (c clause) leftOut(s Subject) (why string) {
	if c.name == "DialComesFromBind" && s.Bind == (transport.Address{}) {
		return "there is no other address to dial from"
	}
	return ""
}

var clauses = []clause{
	{"ListenReportsDialableAddress", "Listener.Address returns where the listener is reached, with the port that was chosen where port 0 was asked for", listenReportsDialableAddress},
	{"DialReachesAccept", "Accept waits for the next connection; Dial connects to addr", dialReachesAccept},
	{"BytesFlowBothWays", "Conn: a connected socket, whose bytes the transport neither changes nor loses", bytesFlowBothWays},
	{"HalfCloseReadsAsEndOfFile", "Conn: a socket whose ends can close for writing alone; a relay passes that on", halfCloseReadsAsEndOfFile},
	{"SocketIsTCPOrUnix", "Conn.Socket is a *net.TCPConn or a *net.UnixConn", socketIsTCPOrUnix},
	{"PeerIsWhoDialled", "Peer says who is at the other end; Network is never empty", peerIsWhoDialled},
	{"DialComesFromBind", "Dial connects to addr, from bind unless that is the zero Address", dialComesFromBind},
	{"EachDialMeetsOneAccept", "concurrency: every method may be called from many goroutines at once", eachDialMeetsOneAccept},
	{"BrokenConnectionDoesNotFailAccept", "Accept: a connection that breaks before Accept returns is not an error", brokenConnectionDoesNotFailAccept},
	{"ConnectionsOutliveListener", "Listener.Close: accepted connections live on", connectionsOutliveListener},
	{"CloseEndsAccepts", "concurrency: closing a listener ends the Accept calls that wait on it with net.ErrClosed", closeEndsAccepts},
	{"CloseStopsListening", "Listener.Close stops listening", closeStopsListening},
	{"ClosedAddressCanBeUsedAgain", "Listener.Close: the address can be listened at again at once", closedAddressCanBeUsedAgain},
	{"ContextEndsAccept", "concurrency: a context that ends ends one Accept, with the context's error", contextEndsAccept},
	{"ContextEndsDial", "concurrency: a context that ends ends one Dial, with the context's error", contextEndsDial},
	{"CancelledAcceptLosesNoConnection", "concurrency: a context that ends, ends one call and takes no connection from another", cancelledAcceptLosesNoConnection},
	{"ListenTwiceFailsNamingAddress", "Listen: an error says what is wrong with which address", listenTwiceFailsNamingAddress},
	{"DialNobodyFailsNamingAddress", "Dial: an error names addr", dialNobodyFailsNamingAddress},
	{"NoDescriptorLeaks", "Conn: the transport hands over each connected socket and forgets it", noDescriptorLeaks},
}
