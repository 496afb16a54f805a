// SPDX-License-Identifier: Apache-2.0

package transporttest

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"

	"github.com/flexnbd/flexnbd/sdk/transport"
)

// pair is the two ends of one connection, and the listener it came through.
type pair struct {
	listener          transport.Listener
	dialled, accepted transport.Conn
}

// connect listens at the subject's address and makes a connection there.
func (t *trial) connect(ctx context.Context, bind transport.Address) (pair, error) {
	l, err := t.listen(ctx, t.Listen)
	if err != nil {
		return pair{}, err
	}
	return t.connectTo(ctx, l, bind)
}

// connectTo makes a connection through l. Dial and Accept run at once, since
// some transports' Dial returns only when its connection is accepted.
func (t *trial) connectTo(ctx context.Context, l transport.Listener, bind transport.Address) (pair, error) {
	accepting := t.accept(ctx, l)
	dialling := t.dial(ctx, l.Address(), bind)
	dialled, err := dialling.wait()
	if err != nil {
		return pair{}, err
	}
	accepted, err := accepting.wait()
	if err != nil {
		return pair{}, err
	}
	return pair{listener: l, dialled: dialled, accepted: accepted}, nil
}

// greet sends a number in each direction, which shows that the two sockets are
// the ends of one connection.
func (p pair) greet(number uint64) error {
	if err := pass(p.dialled.Socket, p.accepted.Socket, number); err != nil {
		return fmt.Errorf("from the dialled to the accepted socket: %w", err)
	}
	if err := pass(p.accepted.Socket, p.dialled.Socket, ^number); err != nil {
		return fmt.Errorf("from the accepted to the dialled socket: %w", err)
	}
	return nil
}

func pass(from, to net.Conn, number uint64) error {
	if err := send(from, number); err != nil {
		return err
	}
	got, err := receive(to)
	if err == nil && got != number {
		err = fmt.Errorf("number %d was sent and %d arrived: these are not the ends of one connection", number, got)
	}
	return err
}

func send(to net.Conn, number uint64) error {
	_, err := to.Write(binary.BigEndian.AppendUint64(nil, number))
	return err
}

func receive(from net.Conn) (uint64, error) {
	var b [8]byte
	_, err := io.ReadFull(from, b[:])
	return binary.BigEndian.Uint64(b[:]), err
}
