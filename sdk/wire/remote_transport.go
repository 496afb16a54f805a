// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/flexnbd/flexnbd/sdk/transport"
	transportv1 "github.com/flexnbd/flexnbd/sdk/wire/proto/transport/v1"
)

// descriptorWait bounds the time between a call's answer and the descriptor it
// announces. Both come from the same process over local sockets.
const descriptorWait = 5 * time.Second

// maxPeerText bounds the strings that describe a peer, in bytes.
const maxPeerText = 256

// remoteTransport is the host's end of a transport plugin.
type remoteTransport struct {
	client      transportv1.TransportClient
	descriptors *DescriptorChannel
}

var _ transport.Transport = (*remoteTransport)(nil)

func (t *remoteTransport) Listen(ctx context.Context, addr transport.Address) (transport.Listener, error) {
	if err := speakable(addr); err != nil {
		return nil, err
	}
	r, err := t.client.Listen(ctx, &transportv1.ListenRequest{Address: addressToProto(addr)})
	if err := callError(ctx, err, r.GetError()); err != nil {
		return nil, err
	}
	bound, err := addressFromProto(r.GetAddress())
	if err != nil {
		return nil, fmt.Errorf("the transport listens at an impossible address: %w", err)
	}
	l := &remoteListener{
		transport: t, id: r.GetListener(), address: bound,
		conns: make(chan accepted), leaving: make(chan struct{}),
	}
	var pumpCtx context.Context
	pumpCtx, l.stop = context.WithCancel(context.Background())
	l.pump.Go(func() { l.accept(pumpCtx) })
	return l, nil
}

func (t *remoteTransport) Dial(ctx context.Context, addr, bind transport.Address) (transport.Conn, error) {
	if err := errors.Join(speakable(addr), speakable(bind)); err != nil {
		return transport.Conn{}, err
	}
	r, err := t.client.Dial(ctx, &transportv1.DialRequest{Address: addressToProto(addr), Bind: addressToProto(bind)})
	if err := callError(ctx, err, r.GetError()); err != nil {
		return transport.Conn{}, err
	}
	return t.take(ctx, r.GetConn())
}

// speakable returns nil if the wire, whose strings are UTF-8, can carry addr.
func speakable(addr transport.Address) error {
	if !utf8.ValidString(addr.Addr) {
		return fmt.Errorf("address %.200q is not valid UTF-8, which plugins need: %w", addr.Addr, syscall.EINVAL)
	}
	return nil
}

// take receives the socket that c announces.
func (t *remoteTransport) take(ctx context.Context, c *transportv1.Conn) (transport.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, descriptorWait)
	defer cancel()
	f, err := t.descriptors.Receive(ctx, c.GetToken())
	if err != nil {
		return transport.Conn{}, fmt.Errorf("the transport announced a socket that did not come: %w", err)
	}
	socket, err := connFromFile(f)
	if err != nil {
		return transport.Conn{}, err
	}
	peer := transport.Peer{Network: c.GetNetwork(), Address: c.GetPeerAddress()}
	if len(peer.Network) > maxPeerText || len(peer.Address) > maxPeerText {
		_ = socket.Close()
		return transport.Conn{}, fmt.Errorf("the transport describes a peer with more than %d bytes", maxPeerText)
	}
	if cred := c.GetCred(); cred != nil {
		peer.Cred = &transport.Cred{PID: cred.GetPid(), UID: cred.GetUid(), GID: cred.GetGid()}
	}
	return transport.Conn{Socket: socket, Peer: peer}, nil
}

// remoteListener keeps one Accept call under way by itself, on a goroutine that
// Close waits for. If each caller's Accept were a call of its own, a caller
// that gives up would lose the connection that arrives at that moment.
type remoteListener struct {
	transport *remoteTransport
	id        uint64
	address   transport.Address

	conns   chan accepted // closed by the pump when it ends
	leaving chan struct{} // closed by Close: nobody takes connections any more
	stop    context.CancelFunc
	pump    sync.WaitGroup

	closing sync.Once
	closed  error
}

type accepted struct {
	conn transport.Conn
	err  error
}

func (l *remoteListener) Address() transport.Address { return l.address }

func (l *remoteListener) Accept(ctx context.Context) (transport.Conn, error) {
	if err := ctx.Err(); err != nil {
		return transport.Conn{}, err
	}
	select {
	case a, open := <-l.conns:
		if !open {
			return transport.Conn{}, fmt.Errorf("accept at %s: %w", l.address, net.ErrClosed)
		}
		return a.conn, a.err
	case <-ctx.Done():
		return transport.Conn{}, ctx.Err()
	}
}

// Close lets the pump's last call be answered, so that a connection which comes
// in at that moment is closed and not left hanging.
func (l *remoteListener) Close() error {
	l.closing.Do(func() {
		close(l.leaving)
		ctx, cancel := context.WithTimeout(context.Background(), descriptorWait)
		defer cancel()
		r, err := l.transport.client.CloseListener(ctx, &transportv1.CloseListenerRequest{Listener: l.id})
		l.closed = callError(ctx, err, r.GetError())
		if err != nil { // it may never be answered
			l.stop()
		}
		giveUp := time.AfterFunc(descriptorWait, l.stop)
		l.pump.Wait()
		giveUp.Stop()
		l.stop()
	})
	return l.closed
}

// accept hands connections over one by one until the listener or the plugin is
// gone. An error of the plugin itself ends it too, after it was told once. A
// connection for which this process has no descriptor free is lost, and told,
// and the next one is waited for.
func (l *remoteListener) accept(ctx context.Context) {
	defer close(l.conns)
	for {
		a, more := l.next(ctx)
		if a.conn.Socket != nil || a.err != nil {
			select {
			case l.conns <- a:
			case <-l.leaving:
				if a.conn.Socket != nil {
					_ = a.conn.Socket.Close()
				}
				return
			}
		}
		if !more {
			return
		}
	}
}

// next makes one Accept call. more is false when no further one can succeed.
func (l *remoteListener) next(ctx context.Context) (a accepted, more bool) {
	r, err := l.transport.client.Accept(ctx, &transportv1.AcceptRequest{Listener: l.id})
	if ctx.Err() != nil && err != nil {
		return accepted{}, false
	}
	if err := callError(ctx, err, r.GetError()); err != nil {
		return accepted{err: err}, false
	}
	if r.GetClosed() {
		return accepted{}, false
	}
	// The answer is here, so the socket is on its way: it is taken even if the
	// listener is being closed, and then closed in accept.
	a.conn, a.err = l.transport.take(context.WithoutCancel(ctx), r.GetConn())
	return a, a.err == nil || errors.Is(a.err, syscall.EMFILE) || errors.Is(a.err, syscall.ENFILE)
}
