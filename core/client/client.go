// SPDX-License-Identifier: GPL-3.0-or-later

package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// Options says how to connect.
type Options struct {
	// Export is the name of the export. The empty name means the server's
	// default export.
	Export string

	// HandshakeTimeout bounds the whole handshake. 0 means 10 seconds.
	HandshakeTimeout time.Duration

	// Migration asks the server to take a disk, or to say what became of one,
	// before the export is asked for. nil asks nothing. Servers of other projects
	// do not know the option, and oldstyle servers cannot be asked; Connect
	// succeeds all the same, and [Client.Migration] says so.
	Migration *nbd.MigrationHello
}

const (
	defaultHandshakeTimeout = 10 * time.Second

	// goodbyeTimeout bounds what is only polite: saying that the connection
	// ends, and looking for a reply on a connection that is already broken.
	goodbyeTimeout = time.Second
)

// Client is a connection to one export, in the transmission phase. One
// goroutine at a time may use it; only Close may be called at any time, and
// makes a call under way fail.
type Client struct {
	conn   net.Conn
	export string

	hello      *nbd.MigrationHello // nil: none is sent
	answer     *nbd.MigrationAnswer
	isOldstyle bool

	size       uint64
	flags      nbd.TransmissionFlags
	sizes      nbd.BlockSizes
	advertised bool // the server told sizes, and the client has promised to obey

	cookie uint64 // of the last request
	buf    []byte // for payloads; made when first needed
	broken error  // why no further request is possible; nil while one is
}

// Connect negotiates with the NBD server at the other end of conn and enters
// the transmission phase. It asks with OPT_GO and falls back to OPT_EXPORT_NAME
// for servers that do not know it. A server that greets in the oldstyle handshake
// is taken by its word, if no export is asked for by name. conn belongs to the client from the start:
// when Connect fails, it has been closed.
//
// The error is a [*RefusedError] when the server answered no, wraps
// [nbd.ErrMagic] when it is no NBD server and [nbd.ErrOldstyle] when it is one
// of the old kind and a name was asked for, and wraps the context's error, or context.DeadlineExceeded
// for the handshake's own limit, when time ran out.
func Connect(ctx context.Context, conn net.Conn, o Options) (*Client, error) {
	limit := o.HandshakeTimeout
	if limit == 0 {
		limit = defaultHandshakeTimeout
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, handshakeTimeout(limit))
	defer cancel()

	c := &Client{conn: conn, export: o.Export, hello: o.Migration, sizes: nbd.DefaultBlockSizes}
	if err := c.connect(ctx); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("connecting to export %q: %w", o.Export, err)
	}
	return c, nil
}

func (c *Client) connect(ctx context.Context) error {
	if err := nbd.CheckString("the export's name", c.export); err != nil {
		return err
	}
	if c.hello != nil {
		if err := c.hello.Check(); err != nil {
			return err
		}
	}
	g := guard(ctx, c.conn)
	err := g.release(c.handshake())
	var no *RefusedError
	if errors.As(err, &no) {
		c.abort()
	}
	return err
}

// abort ends a handshake politely ("Termination of the session during option
// haggling"). The server's answer is not waited for, nor is its failure news.
func (c *Client) abort() {
	_ = c.conn.SetDeadline(time.Now().Add(goodbyeTimeout))
	_, _ = c.conn.Write(nbd.AppendOption(nil, nbd.OptAbort, nil))
}

// Size returns the export's size in bytes.
func (c *Client) Size() uint64 { return c.size }

// Flags returns the export's transmission flags.
func (c *Client) Flags() nbd.TransmissionFlags { return c.flags }

// BlockSizes returns the export's size constraints and whether the server told
// them; otherwise they are [nbd.DefaultBlockSizes]. Those that were told are
// obeyed by every request.
func (c *Client) BlockSizes() (sizes nbd.BlockSizes, told bool) { return c.sizes, c.advertised }

// Oldstyle reports whether the server has greeted in the oldstyle handshake.
func (c *Client) Oldstyle() bool { return c.isOldstyle }

// Disconnect says goodbye and closes the connection. The error is that of
// saying goodbye; the connection is closed in any case. After a request that
// broke the connection, and after Disconnect or Close, it does nothing.
func (c *Client) Disconnect() error {
	if c.broken != nil {
		return nil
	}
	_ = c.conn.SetDeadline(time.Now().Add(goodbyeTimeout))
	_, err := c.conn.Write(nbd.AppendRequest(nil, nbd.Request{Command: nbd.CmdDisc, Cookie: c.nextCookie()}))
	c.fail(errDisconnected)
	if err != nil && !isClosed(err) {
		return fmt.Errorf("disconnecting from export %q: %w", c.export, err)
	}
	return nil
}

var errDisconnected = errors.New("the client has disconnected")

// Close closes the connection without a goodbye.
func (c *Client) Close() error {
	if err := c.conn.Close(); err != nil && !isClosed(err) {
		return fmt.Errorf("closing the connection to export %q: %w", c.export, err)
	}
	return nil
}

// isClosed reports whether err means that this side has closed the connection;
// net.Pipe has an error of its own for it.
func isClosed(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe)
}

// fail closes the connection for good. The first reason stays.
func (c *Client) fail(why error) {
	if c.broken == nil {
		c.broken = why
	}
	_ = c.conn.Close()
}

func (c *Client) nextCookie() uint64 {
	c.cookie++
	return c.cookie
}
