// SPDX-License-Identifier: GPL-3.0-or-later

// Package client is an NBD client, with two ways to use a connection: one request
// at a time, as the verbs read and write do, and many at once, as a migration does.
//
//	c, err := client.Connect(ctx, conn, client.Options{Export: "disk"})
//	if err != nil { ... }
//	defer c.Close()
//	if err := c.ReadTo(ctx, os.Stdout, 4096, 512); err != nil { ... }
//	return c.Disconnect()
//
// [Connect] takes a connection that somebody else has dialled, plays whichever
// handshake the server greets with, fixed newstyle, newstyle or oldstyle, and
// returns a [Client], which owns the connection from then on. [Client.ReadTo] and
// [Client.WriteFrom] move the bytes of one request between the connection and a
// reader or writer, through a buffer of 256 KiB however long the request is.
//
// [Client.Pipeline] takes the connection over for requests that change the disk,
// many in flight:
//
//	p := c.Pipeline(client.PipelineOptions{})
//	defer p.Close()
//	p.Send(&client.Call{
//		Request: nbd.Request{Command: nbd.CmdWrite, Offset: 4096, Length: 512},
//		Payload: data,
//		Done:    func(err error) { ... },
//	})
//	err := p.Disconnect(ctx) // waits for every Done
//
// A call costs no memory beyond the caller's own, and no goroutine: one goroutine
// sends whatever has been queued, headers and payloads of many calls with one
// writev, and one receives replies, as many as there are, and calls Done. The
// [Pipeline] has one mutex, which is held for no system call that waits, and never
// while Done is called.
//
// With [Options.Migration], Connect asks the server to take a disk over; see
// docs/migration-protocol.md.
//
// Only simple replies are negotiated. Chunks would gain nothing: a failed request is
// told by its errno either way, a server that fails in the middle of its data hangs
// up, which is an error here too, and a pipeline does not read. The less is asked
// for, the more servers answer.
//
// Every number from the server is checked before it is used. A server is never
// waited for without limit: the handshake has a time limit of its own, every call
// of a Client ends when its context does, and a pipeline is cut when the server
// says nothing for ten seconds. Ending a request before its time, be
// it by the context, by an error on the caller's own side or by a broken reply,
// leaves the connection out of step, so it is closed, and every later call says
// why.
//
// Errors tell three parties apart: what the server refused holds an
// [nbd.Errno] or a [*RefusedError]; what failed on the caller's side is
// [ErrInput] or [ErrOutput]; the rest is the network or a server that breaks
// the protocol.
//
// What the package does not do: dial, speak TLS, read with several requests in
// flight, bound what is in flight, keep requests for overlapping ranges in order,
// reconnect.
package client
