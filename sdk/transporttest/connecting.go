// SPDX-License-Identifier: Apache-2.0

package transporttest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/flexnbd/flexnbd/sdk/transport"
)

// crowd is how many connections are made at once; few enough for any backlog.
const crowd = 64

// attempts is how often a clause tries again that needs an address to stay
// free, which another program on the machine might take.
const attempts = 3

// listenReportsDialableAddress: Address returns where the listener is reached,
// always the same.
func listenReportsDialableAddress(ctx context.Context, t *trial) error {
	l, err := t.listen(ctx, t.Listen)
	if err != nil {
		return err
	}
	at := l.Address()
	if t.Listen.Port != 0 && at.Port != t.Listen.Port {
		return fmt.Errorf("port %d was asked for, and Address reports %d", t.Listen.Port, at.Port)
	}
	if _, err := t.connectTo(ctx, l, transport.Address{}); err != nil {
		return fmt.Errorf("at the reported address: %w", err)
	}
	if again := l.Address(); again != at {
		return fmt.Errorf("Address reported %s and then %s", at, again)
	}
	return nil
}

// dialReachesAccept: the two sockets are the ends of one connection, and a
// listener serves more than one.
func dialReachesAccept(ctx context.Context, t *trial) error {
	l, err := t.listen(ctx, t.Listen)
	if err != nil {
		return err
	}
	for number := range uint64(4) {
		p, err := t.connectTo(ctx, l, transport.Address{})
		if err != nil {
			return err
		}
		if err := p.greet(number); err != nil {
			return err
		}
	}
	return nil
}

// socketIsTCPOrUnix: Socket has a descriptor that the core can use.
func socketIsTCPOrUnix(ctx context.Context, t *trial) error {
	p, err := t.connect(ctx, transport.Address{})
	if err != nil {
		return err
	}
	if err := checkSocket(p.dialled.Socket); err != nil {
		return fmt.Errorf("dialled: %w", err)
	}
	if err := checkSocket(p.accepted.Socket); err != nil {
		return fmt.Errorf("accepted: %w", err)
	}
	return nil
}

func checkSocket(socket net.Conn) error {
	switch socket := socket.(type) {
	case *net.TCPConn:
		return nil
	case *net.UnixConn:
		if network := socket.LocalAddr().Network(); network != "unix" {
			return fmt.Errorf("a Unix socket must be a stream, not %q", network)
		}
		return nil
	}
	return fmt.Errorf("the Socket is a %T; it must be a *net.TCPConn or a *net.UnixConn", socket)
}

// peerIsWhoDialled: Peer names the network, and on the accepted side the
// address that was dialled from.
func peerIsWhoDialled(ctx context.Context, t *trial) error {
	p, err := t.connect(ctx, transport.Address{})
	if err != nil {
		return err
	}
	if p.accepted.Peer.Network == "" || p.dialled.Peer.Network == "" {
		return fmt.Errorf("Peer.Network is empty: accepted %+v, dialled %+v", p.accepted.Peer, p.dialled.Peer)
	}
	if t.PeerAddress == nil {
		return nil
	}
	want, got := t.PeerAddress(p.dialled.Socket), p.accepted.Peer.Address
	if got != want {
		return fmt.Errorf("the accepted connection's peer is %q; it dialled from %q", got, want)
	}
	return nil
}

// dialComesFromBind: the accepted side sees the address that Dial was told to
// connect from.
func dialComesFromBind(ctx context.Context, t *trial) error {
	if t.Bind == (transport.Address{}) {
		return nil
	}
	p, err := t.connect(ctx, t.Bind)
	if err != nil {
		return err
	}
	from, _, err := net.SplitHostPort(p.accepted.Peer.Address)
	if err != nil {
		from = p.accepted.Peer.Address
	}
	if from != t.Bind.Addr {
		return fmt.Errorf("the connection was dialled from %s, and its peer is %s", t.Bind, p.accepted.Peer.Address)
	}
	return p.greet(1)
}

// eachDialMeetsOneAccept: of many connections at once, each is accepted
// exactly once.
func eachDialMeetsOneAccept(ctx context.Context, t *trial) error {
	l, err := t.listen(ctx, t.Listen)
	if err != nil {
		return err
	}
	var accepting, dialling []*call[transport.Conn]
	for range crowd {
		accepting = append(accepting, t.accept(ctx, l))
		dialling = append(dialling, t.dial(ctx, l.Address(), transport.Address{}))
	}
	dialled := make([]net.Conn, crowd)
	for i, c := range dialling {
		conn, err := c.wait()
		if err != nil {
			return err
		}
		dialled[i] = conn.Socket
		if err := send(conn.Socket, uint64(i)); err != nil {
			return fmt.Errorf("dialled connection %d: %w", i, err)
		}
	}
	seen := make(map[uint64]bool)
	for _, c := range accepting {
		conn, err := c.wait()
		if err != nil {
			return err
		}
		number, err := receive(conn.Socket)
		if err != nil {
			return fmt.Errorf("an accepted connection belongs to no Dial, or to one that was accepted before: %w", err)
		}
		if number >= crowd || seen[number] {
			return fmt.Errorf("connection %d was accepted twice, or never dialled", number)
		}
		seen[number] = true
		if err := pass(conn.Socket, dialled[number], ^number); err != nil {
			return fmt.Errorf("back to dialled connection %d: %w", number, err)
		}
	}
	return nil
}

// listenTwiceFailsNamingAddress: one address has one listener, and the error
// can be shown to an operator as it is.
func listenTwiceFailsNamingAddress(ctx context.Context, t *trial) error {
	l, err := t.listen(ctx, t.Listen)
	if err != nil {
		return err
	}
	at := l.Address()
	_, err = t.listen(ctx, at)
	if err == nil {
		return fmt.Errorf("a second Listen at %s succeeds while the first listener is open", at)
	}
	if err := names(errors.Unwrap(err), at); err != nil {
		return fmt.Errorf("a second Listen: %w", err)
	}
	// The first listener must not have been harmed.
	p, err := t.connectTo(ctx, l, transport.Address{})
	if err != nil {
		return fmt.Errorf("after a second Listen has failed: %w", err)
	}
	return p.greet(1)
}

// dialNobodyFailsNamingAddress: so says Dial, which an operator sees as well.
func dialNobodyFailsNamingAddress(ctx context.Context, t *trial) error {
	at, err := t.dialClosed(ctx)
	if err == nil {
		return fmt.Errorf("Dial to %s succeeds where nobody listens", at)
	}
	return names(errors.Unwrap(err), at)
}

// closeStopsListening: nobody is let in after Close.
func closeStopsListening(ctx context.Context, t *trial) error {
	at, err := t.dialClosed(ctx)
	if err == nil {
		return fmt.Errorf("Dial to %s succeeds after the listener's Close", at)
	}
	if errors.Is(err, errHangs) || at == (transport.Address{}) {
		return err
	}
	return nil
}

// dialClosed dials an address whose listener has just been closed, and returns
// the error of that, if need be of several attempts. Errors of anything else
// come without an address.
func (t *trial) dialClosed(ctx context.Context) (transport.Address, error) {
	var at transport.Address
	for range attempts {
		l, err := t.listen(ctx, t.Listen)
		if err != nil {
			return transport.Address{}, err
		}
		at = l.Address()
		if err := t.close(l); err != nil {
			return transport.Address{}, err
		}
		if _, err := t.dial(ctx, at, transport.Address{}).wait(); err != nil {
			return at, err
		}
	}
	return at, nil
}

// names checks that err, as the transport gave it, says which address it is
// about.
func names(err error, at transport.Address) error {
	if err == nil || at == (transport.Address{}) {
		return fmt.Errorf("the failure could not be brought about: %w", err)
	}
	if !strings.Contains(err.Error(), at.String()) {
		return fmt.Errorf("the error %q does not name the address %s", err, at)
	}
	return nil
}
