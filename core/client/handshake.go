// SPDX-License-Identifier: GPL-3.0-or-later

package client

import (
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// maxReplies bounds how many pieces of information a server may give about an
// export before the client has had enough. The protocol defines four.
const maxReplies = 64

// handshake goes from the greeting to the transmission phase, in whichever style
// the server greets.
func (c *Client) handshake() error {
	var greeting [nbd.OldstyleGreetingSize]byte
	n, offered, err := c.greeting(greeting[:nbd.GreetingSize])
	switch {
	case errors.Is(err, nbd.ErrOldstyle):
		return c.oldstyle(greeting[:], n)
	case err != nil:
		return err
	}
	flags := nbd.ClientFlags(offered & (nbd.FlagFixedNewstyle | nbd.FlagNoZeroes))
	if err := c.send("client flags", nbd.AppendClientFlags(nil, flags)); err != nil {
		return err
	}
	noZeroes := flags&nbd.FlagClientNoZeroes != 0
	if flags&nbd.FlagClientFixedNewstyle == 0 {
		return c.exportName(noZeroes) // the only option such a server knows
	}
	if err := c.migrate(); err != nil {
		return err
	}
	err = c.optGo()
	var no *RefusedError
	if errors.As(err, &no) && no.Reply == nbd.RepErrUnsup {
		return c.exportName(noZeroes)
	}
	return err
}

// greeting reads what the server says first into b, n bytes of it. It judges every
// byte as it comes, since what is no NBD server may say less and then wait. The
// error wraps nbd.ErrOldstyle when the server is of that kind, and has more to say.
func (c *Client) greeting(b []byte) (n int, flags nbd.HandshakeFlags, err error) {
	for {
		m, readErr := c.conn.Read(b[n:])
		n += m
		flags, err = nbd.DecodeGreeting(b[:n])
		switch {
		case err == nil, errors.Is(err, nbd.ErrOldstyle):
			return n, flags, err
		case errors.Is(err, nbd.ErrMagic):
			return n, 0, fmt.Errorf("not an NBD server, its first bytes are %q: %w", b[:n], err)
		case errors.Is(readErr, io.EOF) && n == 0:
			return n, 0, fmt.Errorf("the server closed the connection without a greeting, as it does for clients it does not admit: %w", io.ErrUnexpectedEOF)
		case readErr != nil:
			return n, 0, receiving("the server's greeting", readErr)
		}
	}
}

// oldstyle reads the rest of an oldstyle greeting, n bytes of which are in b
// already. Nothing is asked of such a server: it has one export, without a name,
// and whoever wants another one must not get this one instead.
func (c *Client) oldstyle(b []byte, n int) error {
	if c.export != "" {
		return fmt.Errorf("%w, in which exports have no names; leave the name out if its only export is meant", nbd.ErrOldstyle)
	}
	if _, err := io.ReadFull(c.conn, b[n:]); err != nil {
		return receiving("the server's greeting", err)
	}
	c.isOldstyle = true
	size, flags, err := nbd.DecodeOldstyleGreeting(b)
	if err != nil {
		return err
	}
	return c.adopt(size, flags)
}

// optGo asks for the export with OPT_GO ("Option types"), and for its size
// constraints, which is a promise to obey them.
func (c *Client) optGo() error {
	data := nbd.AppendInfoRequest(nil, c.export, nbd.InfoBlockSize)
	if err := c.send("OPT_GO", nbd.AppendOption(nil, nbd.OptGo, data)); err != nil {
		return err
	}
	known := false
	for range maxReplies {
		h, data, err := nbd.ReadOptionReply(c.conn)
		switch {
		case err != nil:
			return receiving("the answer to OPT_GO", err)
		case h.Option != nbd.OptGo:
			return breach("it answers %v, which nobody asked for, instead of %v", h.Option, nbd.OptGo)
		case h.Reply.IsError():
			return &RefusedError{Option: nbd.OptGo, Reply: h.Reply, Message: string(data[:min(len(data), nbd.MaxString)])}
		case h.Reply == nbd.RepInfo:
			isExport, err := c.learn(data)
			if err != nil {
				return err
			}
			known = known || isExport
		case h.Reply != nbd.RepAck || len(data) > 0:
			return breach("a %v reply with %d bytes of data is no answer to %v", h.Reply, len(data), nbd.OptGo)
		case !known:
			return breach("it accepts the export without telling its size")
		default:
			return nil
		}
	}
	return breach("it answers OPT_GO with more than %d replies", maxReplies)
}

// learn takes in one piece of information and reports whether it was the
// export's size and flags.
func (c *Client) learn(data []byte) (isExport bool, err error) {
	info, err := nbd.ParseInfo(data)
	if err != nil {
		return false, fmt.Errorf("the server breaks the protocol: %w", err)
	}
	switch info.Type {
	case nbd.InfoExport:
		return true, c.adopt(info.Size, info.Flags)
	case nbd.InfoBlockSize:
		c.sizes, c.advertised = info.BlockSizes, true
	}
	return false, nil
}

// exportName asks for the export the old way, which leaves the server no way
// to say no but hanging up.
func (c *Client) exportName(noZeroes bool) error {
	// A server that knows no OPT_GO makes no promise that would count here.
	c.sizes, c.advertised = nbd.DefaultBlockSizes, false
	if err := c.send("OPT_EXPORT_NAME", nbd.AppendOption(nil, nbd.OptExportName, []byte(c.export))); err != nil {
		return err
	}
	b := make([]byte, nbd.ExportNameReplySize+nbd.ExportNamePadding)
	if noZeroes {
		b = b[:nbd.ExportNameReplySize]
	}
	switch n, err := io.ReadFull(c.conn, b); {
	case n == 0 && errors.Is(err, io.EOF):
		return fmt.Errorf("the server closed the connection when asked for the export, most likely because it has no such export: %w", io.ErrUnexpectedEOF)
	case err != nil:
		return receiving("the answer to OPT_EXPORT_NAME", err)
	}
	size, flags, err := nbd.DecodeExportNameReply(b)
	if err != nil {
		return err
	}
	return c.adopt(size, flags)
}

// adopt takes over an export's size and flags. Sizes end where file offsets do.
func (c *Client) adopt(size uint64, flags nbd.TransmissionFlags) error {
	if size > math.MaxInt64 {
		return breach("an export cannot have %d bytes", size)
	}
	if !flags.Has(nbd.FlagHasFlags) {
		flags = 0 // the other bits mean nothing without this one
	}
	c.size, c.flags = size, flags
	return nil
}

func (c *Client) send(what string, b []byte) error {
	if _, err := c.conn.Write(b); err != nil {
		return fmt.Errorf("sending %s: %w", what, err)
	}
	return nil
}

// breach is a server that does not keep to the protocol.
func breach(format string, args ...any) error {
	return fmt.Errorf("the server breaks the protocol: %s", fmt.Sprintf(format, args...))
}

// receiving says what was awaited when err came instead.
func receiving(what string, err error) error {
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("the server closed the connection before the end of %s: %w", what, io.ErrUnexpectedEOF)
	case errors.Is(err, nbd.ErrMagic), errors.Is(err, nbd.ErrMalformed), errors.Is(err, nbd.ErrTooBig):
		return fmt.Errorf("the server breaks the protocol in %s: %w", what, err)
	}
	return fmt.Errorf("receiving %s: %w", what, err)
}
