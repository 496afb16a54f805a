// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/flexnbd/flexnbd/core/export"
)

// Config is what a session needs besides its connection.
type Config struct {
	// Export is the disk. It outlives the session.
	Export *export.Export
	// Log is named after the client.
	Log hclog.Logger
	// Stopping is closed when the server shuts down. From then on new requests
	// are refused with ESHUTDOWN, and once those before have been answered the
	// connection is closed. A handshake is refused, and soon cut.
	Stopping <-chan struct{}
	// Moved is closed when the disk has been given away, after its gate was
	// closed. Every connection ends then, without a reply to anything that has not
	// been carried out. Nil where that can't happen.
	Moved <-chan struct{}
	// Migration is asked whether the disk may be served, and by whom it may be
	// sent. Nil: to everybody, and by nobody.
	Migration Migration
	// Admission decides whether there is room for the client. Nil: there always is.
	Admission Admission
	// Peer names the client to Migration.
	Peer string
	// Handshake is the kind that the client has to speak.
	Handshake Handshake
	// HandshakeTimeout cuts a handshake that takes longer. 0 means
	// [DefaultHandshakeTimeout].
	HandshakeTimeout time.Duration
	// RequestTimeout disconnects a client one of whose requests takes longer,
	// from its header's arrival until the last byte of its reply is on its
	// way. 0 means that a request may take for ever.
	RequestTimeout time.Duration
}

// Times.
const (
	// DefaultHandshakeTimeout is what qemu allows too. Without a limit,
	// connections that never say anything would use up the server.
	DefaultHandshakeTimeout = 10 * time.Second
	// farewellTime is how long a handshake may go on once the server stops.
	farewellTime = time.Second
	// sendTimeout is how long a client that sends nothing any more may leave
	// the server waiting while it sends the last replies.
	sendTimeout = 30 * time.Second
	// lingerTimeout is how long the close waits for the client to close too,
	// so that replies it has not read yet are not destroyed by a reset.
	lingerTimeout = time.Second
)

// handshakeBuffer is enough for most of what a client says in its handshake.
const handshakeBuffer = 1 << 10

// Serve talks to one client until it leaves, breaks the protocol, or the server
// stops, and closes conn. When ctx ends the connection is cut.
//
// The error is nil when the client left by the rules, the server stopped, or
// [Link.Cut] was called; it is [export.ErrMovedAway] when the disk
// has moved; otherwise it says what went wrong, for the log.
func Serve(ctx context.Context, conn net.Conn, config Config) error {
	if config.HandshakeTimeout == 0 {
		config.HandshakeTimeout = DefaultHandshakeTimeout
	}
	ctx, cut := context.WithCancel(ctx)
	defer cut()
	l := &link{conn: conn, peer: config.Peer, cut: cut, ended: make(chan struct{})}
	closed := make(chan struct{})
	spare := context.AfterFunc(ctx, func() {
		_ = conn.Close()
		close(closed)
	})
	defer func() {
		if !spare() {
			<-closed
		}
		_ = conn.Close()
	}()

	in := bufio.NewReaderSize(conn, handshakeBuffer)
	agreed, err := negotiate(ctx, conn, in, config, l)
	if err != nil {
		l.end()
		if l.fenced.Load() {
			return nil // whoever cut it says why
		}
		return describe(ctx, "handshake", unlessGone(err))
	}
	if agreed != nil {
		ahead, _ := in.Peek(in.Buffered())
		err = newTransmission(ctx, conn, ahead, config, agreed, l).run()
	}
	l.end()
	linger(conn)
	if l.fenced.Load() {
		return nil
	}
	return describe(ctx, "transmission", err)
}

// unlessGone is nil for a client that left without a word, as many do, some of
// them with a reset.
func unlessGone(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
		return nil
	}
	return err
}

// linger closes the write side and waits for the client to close its own: data
// that arrives at a closed socket makes the kernel send a reset, which destroys
// replies on their way.
func linger(conn net.Conn) {
	if !closeWrite(conn) {
		return
	}
	_ = conn.SetReadDeadline(time.Now().Add(lingerTimeout))
	_, _ = io.Copy(io.Discard, conn)
}

// closeWrite tells the client that nothing more comes. It returns false where
// that can't be told without closing.
func closeWrite(conn net.Conn) bool {
	half, ok := conn.(interface{ CloseWrite() error })
	return ok && half.CloseWrite() == nil
}

// describe makes the error that Serve returns of one that ended a phase.
func describe(ctx context.Context, phase string, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("%s: cut off by the server", phase)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("%s: the client took too long", phase)
	}
	return fmt.Errorf("%s: %w", phase, err)
}
