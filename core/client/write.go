// SPDX-License-Identifier: GPL-3.0-or-later

package client

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// WriteFrom writes n bytes, at most [MaxRequest], from r at offset off with one
// request, sending them as they are read. Writing no bytes asks the server
// nothing. That the data is durable takes a [Client.Flush].
//
// The error is a [*RequestError]. When r ends or fails before its time, it
// wraps [ErrInput]: a request cannot be taken back, so the connection is cut,
// and a prefix of the range may have been written. When the server refuses the
// write before it has taken all of the data, the rest is not sent, and the
// connection is cut too. It remains usable when a server that has taken all of
// the data answers with an [nbd.Errno], and after the refusals made here.
func (c *Client) WriteFrom(ctx context.Context, r io.Reader, off uint64, n uint32) error {
	req := nbd.Request{Command: nbd.CmdWrite, Offset: off, Length: n}
	return c.do(ctx, &req, func(g *watch) (nbd.Errno, error) {
		return c.write(g, r, req)
	})
}

// write sends the request while a second goroutine waits for the reply, since a
// server may refuse before it has seen all of the data, and may then stop
// reading it.
//
// The outcomes, by what comes first: all is sent, then the reply decides; a
// reply or the end of the connection while sending, then that decides and
// unblocks the sending; the sending fails, then the reply that may still be
// there is worth more than "broken pipe".
func (c *Client) write(g *watch, r io.Reader, req nbd.Request) (nbd.Errno, error) {
	replied := make(chan verdict, 1)
	go func() {
		errno, err := c.reply(req.Cookie)
		if errno != 0 || err != nil {
			g.writeFor(0)
		} else {
			// Whoever has really taken all of the data is not waited for.
			g.writeFor(goodbyeTimeout)
		}
		replied <- verdict{errno, err}
	}()
	early, sendErr := c.sendPayload(r, req, replied)
	switch {
	case early != nil:
		return c.refusedEarly(*early)
	case sendErr == nil:
		v := <-replied
		return v.errno, v.err
	case errors.Is(sendErr, ErrInput):
		_ = c.conn.Close() // a server that waits for the rest has nothing to say
		<-replied
		return 0, sendErr
	}
	g.readFor(goodbyeTimeout)
	v := <-replied
	if v.err != nil && !isTimeout(sendErr) {
		return 0, sendErr
	}
	return c.refusedEarly(v) // it was the reader that stopped the sending, or knows better
}

// verdict is what came of waiting for a write's reply.
type verdict struct {
	errno nbd.Errno
	err   error // no reply
}

// refusedEarly ends a write whose reply came before all of its data was sent.
func (c *Client) refusedEarly(v verdict) (nbd.Errno, error) {
	switch {
	case v.err != nil:
		return 0, v.err
	case v.errno == 0:
		return 0, breach("it reports a write as done before it has all of the data")
	}
	c.fail(fmt.Errorf("the write before was not sent completely: %w", v.errno))
	return v.errno, nil
}

// sendPayload sends the request and n bytes from r, unless a reply comes before
// the last piece is sent.
func (c *Client) sendPayload(r io.Reader, req nbd.Request, replied <-chan verdict) (early *verdict, err error) {
	if err := c.send("the request", nbd.AppendRequest(nil, req)); err != nil {
		return nil, err
	}
	buf := c.buffer(req.Length)
	for done := uint32(0); done < req.Length; {
		piece := buf[:min(req.Length-done, uint32(len(buf)))]
		m, err := io.ReadFull(r, piece)
		select {
		case v := <-replied:
			return &v, nil
		default:
		}
		if err != nil {
			return nil, inputEnded(err, done+uint32(m), req.Length)
		}
		if _, err := c.conn.Write(piece); err != nil {
			return nil, fmt.Errorf("after %d of %d bytes: sending the data: %w", done, req.Length, err)
		}
		done += uint32(len(piece))
	}
	return nil, nil
}

// inputEnded is for a reader that gave only part of what a write needs.
func inputEnded(err error, got, want uint32) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: the input ended after %d of %d bytes; a prefix of them may have been written: %w", ErrInput, got, want, io.ErrUnexpectedEOF)
	}
	return fmt.Errorf("%w after %d of %d bytes; a prefix of them may have been written: %w", ErrInput, got, want, err)
}
