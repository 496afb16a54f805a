// SPDX-License-Identifier: GPL-3.0-or-later

// Package client is an NBD client. The verbs read and write use it: they make
// one request each.
//
//	c, err := client.Connect(ctx, conn, client.Options{Export: "disk"})
//	if err != nil { ... }
//	defer c.Close()
//	if err := c.ReadTo(ctx, os.Stdout, 4096, 512); err != nil { ... }
//	return c.Disconnect()
//
// [Connect] takes a connection that somebody else has dialled, plays whichever
// handshake the server greets with, fixed newstyle, newstyle or oldstyle, and
// returns a [Client], which owns the connection from then on. [Client.ReadTo] and [Client.WriteFrom] move the
// bytes of one request between the connection and a reader or writer, through
// a buffer of 256 KiB however long the request is.
//
// Only simple replies are negotiated. One request at a time gains nothing from
// chunks: a failed request is told by its errno either way, and a server that
// fails in the middle of its data hangs up, which is an error here too. The
// less is asked for, the more servers answer.
//
// Every number from the server is checked before it is used. A server is never
// waited for without limit: the handshake has a time limit of its own, and
// every call ends when its context does. Ending a request before its time, be
// it by the context, by an error on the caller's own side or by a broken reply,
// leaves the connection out of step, so it is closed, and every later call says
// why.
//
// Errors tell three parties apart: what the server refused holds an
// [nbd.Errno] or a [*RefusedError]; what failed on the caller's side is
// [ErrInput] or [ErrOutput]; the rest is the network or a server that breaks
// the protocol.
//
// What the package does not do: dial, speak TLS, keep several requests in flight,
// reconnect.
package client
