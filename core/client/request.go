// SPDX-License-Identifier: GPL-3.0-or-later

package client

import (
	"context"
	"fmt"
	"io"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// MaxRequest is the longest request, in bytes: as much as the verbs read and
// write allow.
const MaxRequest = 1 << 30

// bufferSize bounds the memory for a request's payload.
const bufferSize = 256 << 10

// ReadTo reads n bytes, at most [MaxRequest], at offset off with one request
// and writes them to w as they arrive. Nothing is written before the server has
// said that it can read; a server that fails later hangs up, and then w has a
// prefix. Reading no bytes asks the server nothing.
//
// The error is a [*RequestError]. The connection remains usable when it holds
// an [nbd.Errno] or one of the refusals made here, such as [ErrOutOfRange].
func (c *Client) ReadTo(ctx context.Context, w io.Writer, off uint64, n uint32) error {
	req := nbd.Request{Command: nbd.CmdRead, Offset: off, Length: n}
	return c.do(ctx, &req, func(*watch) (nbd.Errno, error) {
		if errno, err := c.roundTrip(req); errno != 0 || err != nil {
			return errno, err
		}
		return 0, c.receivePayload(w, n)
	})
}

// receivePayload passes n bytes from the connection to w.
func (c *Client) receivePayload(w io.Writer, n uint32) error {
	buf := c.buffer(n)
	for done := uint32(0); done < n; {
		m, err := c.conn.Read(buf[:min(n-done, uint32(len(buf)))])
		if m > 0 {
			if wrote, err := w.Write(buf[:m]); err != nil {
				return fmt.Errorf("%w: %w", ErrOutput, err)
			} else if wrote < m {
				return fmt.Errorf("%w: %w", ErrOutput, io.ErrShortWrite)
			}
			done += uint32(m)
		}
		if err != nil && done < n {
			return fmt.Errorf("after %d of %d bytes: %w", done, n, receiving("the data", err))
		}
	}
	return nil
}

// Flush asks the server to make durable every write that it has replied to.
// The error is a [*RequestError], with [ErrUnsupported] in it when the server
// offers no flush.
func (c *Client) Flush(ctx context.Context) error {
	req := nbd.Request{Command: nbd.CmdFlush}
	return c.do(ctx, &req, func(*watch) (nbd.Errno, error) { return c.roundTrip(req) })
}

// do runs one request: checks it, gives it a cookie, ends it with the context,
// and closes the connection when the request leaves it out of step. That is
// when run returns an error; an errno is the server's refusal, in good order.
func (c *Client) do(ctx context.Context, req *nbd.Request, run func(*watch) (nbd.Errno, error)) error {
	failed := func(err error) error {
		return &RequestError{Command: req.Command, Offset: req.Offset, Length: req.Length, Err: err}
	}
	if c.broken != nil {
		return failed(fmt.Errorf("the connection is no longer usable: %w", c.broken))
	}
	if err := c.check(req); err != nil {
		return failed(err)
	}
	if ctx.Err() != nil {
		return failed(context.Cause(ctx))
	}
	if req.Command != nbd.CmdFlush && req.Length == 0 {
		return nil // what a server does with no bytes is not defined
	}
	req.Cookie = c.nextCookie()
	g := guard(ctx, c.conn)
	errno, err := run(g)
	if err = g.release(err); err != nil {
		c.fail(err)
		return failed(err)
	}
	switch errno {
	case 0:
		return nil
	case nbd.ESHUTDOWN:
		// "Terminating the transmission phase": the client has to say goodbye.
		_ = c.Disconnect()
		c.broken = errno
	}
	return failed(errno)
}

// check refuses what the server would have to refuse, or must not be asked.
func (c *Client) check(req *nbd.Request) error {
	if req.Command == nbd.CmdFlush {
		if !c.flags.Has(nbd.FlagSendFlush) {
			return fmt.Errorf("%w: it does not offer FLUSH", ErrUnsupported)
		}
		return nil
	}
	if req.Command != nbd.CmdRead && c.flags.Has(nbd.FlagReadOnly) {
		return ErrReadOnly
	}
	if req.Length > MaxRequest && carriesData(req.Command) {
		return fmt.Errorf("%w: a request has at most %d bytes", ErrOutOfRange, MaxRequest)
	}
	if req.Offset > c.size || uint64(req.Length) > c.size-req.Offset {
		return fmt.Errorf("%w: the export %q has %d bytes", ErrOutOfRange, c.export, c.size)
	}
	return c.checkSizes(req)
}

// checkSizes keeps the promise made by asking for the sizes ("Size
// constraints"). A server that told none is not held to the default maximum:
// oldstyle's heirs have none.
func (c *Client) checkSizes(req *nbd.Request) error {
	if !c.advertised {
		return nil
	}
	if block := c.sizes.Minimum; req.Offset%uint64(block) != 0 || req.Length%block != 0 {
		return fmt.Errorf("%w: offset and length have to be multiples of its smallest block, %d bytes", ErrUnsupported, block)
	}
	if req.Length > c.sizes.MaxPayload && carriesData(req.Command) {
		return fmt.Errorf("%w: one request may carry at most %d bytes to or from it", ErrUnsupported, c.sizes.MaxPayload)
	}
	return nil
}

// carriesData reports whether a request or its reply has its length in bytes behind
// it. Others may be longer than any payload.
func carriesData(c nbd.Command) bool { return c == nbd.CmdRead || c == nbd.CmdWrite }

// roundTrip sends a request without payload and reads the reply's header.
func (c *Client) roundTrip(req nbd.Request) (nbd.Errno, error) {
	if err := c.send("the request", nbd.AppendRequest(nil, req)); err != nil {
		return 0, err
	}
	return c.reply(req.Cookie)
}

// reply reads a reply's header and returns the server's verdict.
func (c *Client) reply(cookie uint64) (nbd.Errno, error) {
	var b [nbd.SimpleReplySize]byte
	if _, err := io.ReadFull(c.conn, b[:]); err != nil {
		return 0, receiving("the reply", err)
	}
	r, err := nbd.DecodeSimpleReply(b[:])
	if err != nil {
		return 0, fmt.Errorf("the server breaks the protocol in the reply, which begins with % x: %w", b[:4], err)
	}
	if r.Cookie != cookie {
		return 0, breach("it replies to request %d instead of %d", r.Cookie, cookie)
	}
	return r.Errno, nil
}

// buffer returns memory for the payload of a request of n bytes.
func (c *Client) buffer(n uint32) []byte {
	if size := int(min(n, bufferSize)); len(c.buf) < size {
		c.buf = make([]byte, size)
	}
	return c.buf
}
