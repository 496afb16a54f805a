// SPDX-License-Identifier: GPL-3.0-or-later

// Package session is one client connection, seen from the server: the handshake,
// then the transmission phase, then an orderly end.
//
//	err := session.Serve(ctx, conn, session.Config{Export: e, Log: log, Stopping: stopping})
//
// Serve returns when the connection is closed and everything that it started has
// ended. handshake.go, or oldstyle.go for clients that know nothing else, ends with
// what was agreed on; nothing behind it handles options. transmission.go reads requests and validates each of them once, in
// validate.go; below that there are only assertions.
//
// # Who does what
//
//	           reader                       queue
//	socket -> intake, validate -> submit -> (gate, maps, lane) -> sink -> outbox -> socket
//
// The reader is the goroutine that called Serve. It owns the socket's read side,
// takes in whatever has arrived with one system call (intake.go), collects the
// requests into a batch and submits them with one call before it waits for
// anything. Completed requests come back through the queue's sink, on any
// goroutine, which may be the reader in the middle of its submit; the sink turns
// them into replies, puts those into the outbox and sends what the socket takes
// without waiting. Only what it does not take is left to another goroutine, the
// writer (outbox.go). So nobody waits for the client while a request of his is
// inside the export's gate, and where nothing waits at all, one goroutine does
// everything.
//
// # What the client may believe
//
// Success is announced only with the data at hand, or with the first piece of
// it. If a later piece then fails, a structured reply is padded and followed by an
// error. A simple reply can say nothing any more, so the writer hangs up in the
// middle of the data and sends nothing else, also not what other requests are
// owed: the client would take it for the missing data.
//
// A request that finds the gate closed is not answered, BLOCK_STATUS included,
// and the connection ends, so that the client asks again at the disk's new home.
//
// # What bounds memory
//
// A connection has at most maxRequests requests between their header's arrival
// and the last byte of their reply, and their payload comes out of the queue's
// budget. When either is used up the reader stops reading: a client that does
// not take its replies fills its own budget and nothing else. Requests longer
// than wire.MaxPayload pass in pieces; a long read that has to leave as one run
// of bytes is streamed through two pieces (stream.go), one such read at a time.
// Extent maps are looked up a few at a time, and what is said of them comes out
// of the same budget (blockstatus.go). A CACHE has one piece of memory, and there
// is one at a time (cache.go).
//
// A client may keep its requests for ever, unless Config.RequestTimeout ends the
// connection (overdue.go).
//
// # Locks
//
// The outbox's mutex and that of the requests under way are leaves: nothing is
// called while one of them is held. Who sends is not a lock but a flag under the
// outbox's mutex, which nobody waits for. A call's counters are atomic.
package session
