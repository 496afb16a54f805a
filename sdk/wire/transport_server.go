// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/flexnbd/flexnbd/sdk/transport"
	transportv1 "github.com/flexnbd/flexnbd/sdk/wire/proto/transport/v1"
)

// maxListeners bounds the listeners that are open at once in one plugin.
const maxListeners = 256

// transportServer is the plugin's end: it makes connections and passes them on.
type transportServer struct {
	transportv1.UnimplementedTransportServer
	transport   transport.Transport
	descriptors *DescriptorChannel

	mu        sync.Mutex
	last      uint64
	listeners map[uint64]transport.Listener
}

func newTransportServer(t transport.Transport, d *DescriptorChannel) *transportServer {
	return &transportServer{transport: t, descriptors: d, listeners: map[uint64]transport.Listener{}}
}

func (t *transportServer) Listen(ctx context.Context, r *transportv1.ListenRequest) (*transportv1.ListenResponse, error) {
	addr, err := addressFromProto(r.GetAddress())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	l, err := t.transport.Listen(ctx, addr)
	if err != nil {
		return &transportv1.ListenResponse{Error: errorToProto(err)}, nil
	}
	if err := ctx.Err(); err != nil { // nobody is left to close it
		_ = l.Close()
		return nil, status.FromContextError(err).Err()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.listeners) >= maxListeners {
		_ = l.Close()
		return nil, status.Errorf(codes.ResourceExhausted, "%d listeners are open already", maxListeners)
	}
	t.last++
	t.listeners[t.last] = l
	return &transportv1.ListenResponse{Listener: t.last, Address: addressToProto(l.Address())}, nil
}

func (t *transportServer) Accept(ctx context.Context, r *transportv1.AcceptRequest) (*transportv1.AcceptResponse, error) {
	t.mu.Lock()
	l := t.listeners[r.GetListener()]
	t.mu.Unlock()
	if l == nil {
		return &transportv1.AcceptResponse{Closed: true}, nil
	}
	conn, err := l.Accept(ctx)
	switch {
	case errors.Is(err, net.ErrClosed):
		return &transportv1.AcceptResponse{Closed: true}, nil
	case err != nil:
		return &transportv1.AcceptResponse{Error: errorToProto(err)}, nil
	}
	passed, err := t.pass(conn)
	return &transportv1.AcceptResponse{Conn: passed, Error: errorToProto(err)}, nil
}

func (t *transportServer) CloseListener(_ context.Context, r *transportv1.CloseListenerRequest) (*transportv1.CloseListenerResponse, error) {
	t.mu.Lock()
	l := t.listeners[r.GetListener()]
	delete(t.listeners, r.GetListener())
	t.mu.Unlock()
	if l == nil {
		return nil, status.Errorf(codes.NotFound, "listener %d is not open", r.GetListener())
	}
	return &transportv1.CloseListenerResponse{Error: errorToProto(l.Close())}, nil
}

func (t *transportServer) Dial(ctx context.Context, r *transportv1.DialRequest) (*transportv1.DialResponse, error) {
	addr, err := addressFromProto(r.GetAddress())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	bind, err := addressFromProto(r.GetBind())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	conn, err := t.transport.Dial(ctx, addr, bind)
	if err != nil {
		return &transportv1.DialResponse{Error: errorToProto(err)}, nil
	}
	if err := ctx.Err(); err != nil && conn.Socket != nil { // nobody is left to take it
		_ = conn.Socket.Close()
		return nil, status.FromContextError(err).Err()
	}
	passed, err := t.pass(conn)
	return &transportv1.DialResponse{Conn: passed, Error: errorToProto(err)}, nil
}

// pass sends the socket to the host and lets go of it here.
func (t *transportServer) pass(conn transport.Conn) (*transportv1.Conn, error) {
	if conn.Socket == nil {
		return nil, fmt.Errorf("the transport returned neither a socket nor an error")
	}
	defer func() { _ = conn.Socket.Close() }()
	sc, ok := conn.Socket.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("a %T cannot be passed on: hand over a socket, or one end of a socketpair", conn.Socket)
	}
	if t.descriptors == nil {
		return nil, fmt.Errorf("this transport was started without a descriptor channel, so it cannot hand over sockets")
	}
	token, err := t.descriptors.Send(sc)
	if err != nil {
		return nil, err
	}
	out := &transportv1.Conn{
		Token:       token,
		Network:     cut(conn.Peer.Network),
		PeerAddress: cut(conn.Peer.Address), // the path of a Unix socket can hold any bytes
	}
	if c := conn.Peer.Cred; c != nil {
		out.Cred = &transportv1.Cred{Pid: c.PID, Uid: c.UID, Gid: c.GID}
	}
	return out, nil
}

func addressToProto(a transport.Address) *transportv1.Address {
	return &transportv1.Address{Addr: a.Addr, Port: uint32(a.Port)}
}

func addressFromProto(p *transportv1.Address) (transport.Address, error) {
	if p.GetPort() > 65535 {
		return transport.Address{}, fmt.Errorf("port %d is over 65535", p.GetPort())
	}
	return transport.Address{Addr: p.GetAddr(), Port: uint16(p.GetPort())}, nil
}
