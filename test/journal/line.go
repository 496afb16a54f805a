// SPDX-License-Identifier: GPL-3.0-or-later

package journal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/flexnbd/flexnbd/core/client"
	"github.com/flexnbd/flexnbd/core/nbd"
)

// line is a connection to one server in the transmission phase. The handshake is
// core/client's. The requests are written out here: a judge must not lean on the
// parts of the program that a migration runs on, and it needs WRITE_ZEROES.
type line struct {
	conn    net.Conn
	client  *client.Client
	server  Server
	timeout time.Duration
	cookie  uint64
	release func() bool // takes the connection out of cut's reach
}

// errGaveUp ends an attempt from this side.
var errGaveUp = errors.New("this side gave the request up")

// errProtocol is a server that does not speak NBD properly, which is a fault, not a
// broken connection.
var errProtocol = errors.New("the server breaks the protocol")

// errUnfit is a server that no waiting makes the right one.
var errUnfit = errors.New("the server does not fit")

// connect dials and negotiates. The connection is closed when cut ends.
func connect(cut context.Context, o Options, s Server, size int64) (*line, error) {
	ctx, cancel := context.WithTimeout(cut, o.HandshakeTimeout)
	defer cancel()
	conn, err := o.Dial(ctx, s)
	if err != nil {
		return nil, err
	}
	c, err := client.Connect(ctx, conn, client.Options{HandshakeTimeout: o.HandshakeTimeout})
	if err != nil {
		return nil, err
	}
	l := &line{conn: conn, client: c, server: s, timeout: o.RequestTimeout}
	sizes, told := c.BlockSizes()
	switch {
	case c.Size() != uint64(size):
		err = fmt.Errorf("%w: its disk has %d bytes instead of %d", errUnfit, c.Size(), size)
	case told && o.Align%int64(sizes.Minimum) != 0:
		err = fmt.Errorf("%w: its smallest block has %d bytes; set Options.Align to that", errUnfit, sizes.Minimum)
	case c.Flags().Has(nbd.FlagReadOnly) && o.Writes+o.Zeroes > 0:
		err = fmt.Errorf("%w: it is read-only", errUnfit)
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	l.release = context.AfterFunc(cut, func() { _ = conn.Close() })
	return l, nil
}

// request sends one request and waits for its answer. payload is what a WRITE
// sends, with room for the header in front of it, or where a READ's data goes.
//
// The error is an nbd.Errno when the server refused, wraps errGaveUp when
// this side gave up, and is otherwise that of the connection, which has ended.
func (l *line) request(cut context.Context, k kind, off int64, buf []byte) error {
	payload := buf[nbd.RequestSize:]
	l.cookie++
	r := nbd.Request{Command: nbd.CmdRead, Cookie: l.cookie, Offset: uint64(off), Length: uint32(len(payload))}
	message := buf[:nbd.RequestSize]
	switch {
	case k == zeroes && l.client.Flags().Has(nbd.FlagSendWriteZeroes):
		r.Command = nbd.CmdWriteZeroes
	case k != read:
		r.Command, message = nbd.CmdWrite, buf
	}
	nbd.AppendRequest(buf[:0], r)
	return l.verdict(cut, l.exchange(message, r, payload))
}

func (l *line) exchange(message []byte, r nbd.Request, payload []byte) error {
	if l.timeout > 0 {
		_ = l.conn.SetDeadline(time.Now().Add(l.timeout))
	}
	if _, err := l.conn.Write(message); err != nil {
		return err
	}
	var head [nbd.SimpleReplySize]byte
	if _, err := io.ReadFull(l.conn, head[:]); err != nil {
		return err
	}
	reply, err := nbd.DecodeSimpleReply(head[:])
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w, the reply begins with % x", errProtocol, err, head)
	case reply.Cookie != r.Cookie:
		return fmt.Errorf("%w: it answers request %d instead of %d", errProtocol, reply.Cookie, r.Cookie)
	case reply.Errno != 0:
		return reply.Errno
	case r.Command == nbd.CmdRead:
		_, err = io.ReadFull(l.conn, payload)
	}
	return err
}

// verdict tells a connection that this side has cut from one that has broken.
func (l *line) verdict(cut context.Context, err error) error {
	if err == nil {
		return nil
	}
	if cut.Err() != nil {
		return fmt.Errorf("%w: %v", errGaveUp, context.Cause(cut))
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("%w: no answer from %s within %v", errGaveUp, l.server.Address, l.timeout)
	}
	return err
}

// hangUp says goodbye, if nothing is in the way, and closes.
func (l *line) hangUp(politely bool) {
	if l.release() && politely {
		_ = l.client.Disconnect()
	}
	_ = l.conn.Close()
}
