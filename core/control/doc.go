// SPDX-License-Identifier: GPL-3.0-or-later

// Package control is the control socket: how the verbs of the command line
// that speak to a running server (status, acl, mirror, break) reach it. It has
// both ends and the protocol between them.
//
// The server's side:
//
//	server, err := control.Listen(path, log)
//	...
//	err = server.Serve(ctx, map[string]control.Verb{"status": status}) // until ctx ends
//
// The command's side:
//
//	answer, err := control.Call(ctx, path, "status")
//
// # Protocol
//
// A client connects to a Unix stream socket and sends one request: lines that
// end in a line feed, the verb first, then its arguments, one a line, ended by
// an empty line or by the end of the stream. The server sends one line,
// "N: text", and closes. N is 0 for success and otherwise what the command
// exits with: 9 without a verb, 10 for a verb that the server does not know.
// A request has at most [MaxRequest] bytes and [MaxLines] lines. A carriage
// return is a byte like any other; a NUL is refused. What a `printf
// 'status\n\n' | nc -U sock` sends is a request.
//
// The text of a status answer is a list of key=value pairs: see [Pairs].
//
// # Who may connect
//
// The socket is of mode 0600 from the moment it exists, so the kernel lets in
// the server's user and root, and nobody else; there is no other check.
//
// # Concurrency
//
// Each connection has a goroutine of its own, so a slow client delays nobody;
// one that does not finish its request in 10 seconds is cut off, and at most
// 64 are served at once: one more is told so. Verbs are called from many
// goroutines. [Server.Serve] waits for all of them before it returns. One that
// waits for long is wrapped in [UntilHangup], so that it does not outlive its client.
//
// What this package does not do: know any verb, or decide what an answer says.
package control
