// SPDX-License-Identifier: GPL-3.0-or-later

package unixsocket

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/hashicorp/go-hclog"

	"github.com/flexnbd/flexnbd/sdk/netlistener"
	"github.com/flexnbd/flexnbd/sdk/socketfile"
	"github.com/flexnbd/flexnbd/sdk/transport"
)

// mode lets in the server's user, its group, and root.
const mode = 0o660

// Transport is Unix stream sockets. The zero value is ready; it holds no state,
// and all its methods may be called from many goroutines.
type Transport struct {
	// Log takes warnings, of which there is one kind: connections cannot be
	// accepted for want of descriptors or memory. Nil means hclog.Default().
	Log hclog.Logger
}

// New returns a transport that logs to [hclog.Default].
func New() transport.Transport {
	return &Transport{}
}

// Listen makes a socket at the path addr, with mode 0660, and listens at it. Its
// Close removes the path. Errors wrap the kernel's errno: EADDRINUSE if a process
// has the socket there open.
func (t *Transport) Listen(ctx context.Context, addr transport.Address) (transport.Listener, error) {
	if err := checkAddress(addr); err != nil {
		return nil, badAddress("listen on", addr, err)
	}
	socket, err := socketfile.Listen(ctx, addr.Addr, mode)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	return netlistener.New(socket, netlistener.Config{
		Address: addr,
		Peer:    func(c net.Conn) transport.Peer { return peer(c.(*net.UnixConn), addr) },
		Log:     t.logger,
	}), nil
}

// Dial connects to the socket at the path addr; bind must be the zero Address.
// Where the server is there but its queue of connections is full, it waits until
// ctx ends. Errors wrap the kernel's errno or the context's error.
func (t *Transport) Dial(ctx context.Context, addr, bind transport.Address) (transport.Conn, error) {
	err := checkAddress(addr)
	if err == nil && bind != (transport.Address{}) {
		err = errors.New("a Unix socket is not connected from any address; leave the bind address out")
	}
	if err != nil {
		return transport.Conn{}, badAddress("connect to", addr, err)
	}
	socket, err := dial(ctx, addr.Addr)
	if err != nil {
		return transport.Conn{}, fmt.Errorf("connect to %s: %w", addr, err)
	}
	return transport.Conn{Socket: socket, Peer: peer(socket, addr)}, nil
}

func (t *Transport) logger() hclog.Logger {
	if t.Log != nil {
		return t.Log
	}
	return hclog.Default()
}

// peer describes the other end of a socket that was accepted or dialled at addr.
func peer(socket *net.UnixConn, addr transport.Address) transport.Peer {
	return transport.Peer{Network: "unix", Address: addr.String(), Cred: credentials(socket)}
}
