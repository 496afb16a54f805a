// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"context"
	"net"
	"strconv"
)

// Transport makes connections.
type Transport interface {
	// Listen starts to listen at addr. An error says what is wrong with
	// which address, so that it can be shown to an operator as it is.
	Listen(ctx context.Context, addr Address) (Listener, error)

	// Dial connects to addr, from bind unless that is the zero Address. An
	// error names addr.
	Dial(ctx context.Context, addr, bind Address) (Conn, error)
}

// Listener takes connections in.
type Listener interface {
	// Accept waits for the next connection. A connection that breaks before
	// Accept returns is not an error; Accept waits for the next one.
	Accept(ctx context.Context) (Conn, error)

	// Address returns where the listener is reached, with the port that was
	// chosen where port 0 was asked for.
	Address() Address

	// Close stops listening. Accepted connections live on, and the address can
	// be listened at again at once.
	Close() error
}

// Address is a place to listen at or to dial, as an operator writes it. What
// the two parts mean is the transport's business: for TCP an IP address and a
// port, for Unix sockets a path and no port.
type Address struct {
	Addr string
	Port uint16
}

// String joins the parts: "127.0.0.1:4777", "[::1]:4777", "/run/x.sock". A
// path stays as it is.
func (a Address) String() string {
	if a.Port == 0 && len(a.Addr) > 0 && a.Addr[0] == '/' {
		return a.Addr
	}
	return net.JoinHostPort(a.Addr, strconv.Itoa(int(a.Port)))
}

// Conn is a connected socket and who is at its other end. Socket is a
// [*net.TCPConn] or a [*net.UnixConn]: the real socket, or a socketpair's end
// that the transport relays for. Whoever receives a Conn closes the socket.
type Conn struct {
	Socket net.Conn
	Peer   Peer
}

// Peer says who is at the other end, as far as the transport can vouch for it.
// The access list judges by nothing else.
type Peer struct {
	// Network is "tcp" or "unix", or a name of the transport's own; never
	// empty.
	Network string
	// Address is where the peer is, as in [Address.String].
	Address string
	// Cred is the identity that the kernel vouches for, on a local socket.
	Cred *Cred
}

// Cred is a local peer's identity when it connected.
type Cred struct {
	PID      int32
	UID, GID uint32
}
