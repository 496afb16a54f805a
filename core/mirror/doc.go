// SPDX-License-Identifier: GPL-3.0-or-later

// Package mirror moves a disk from one server to another while it is in use. It
// has two halves, which meet on the wire only: [Source], in the server that has the
// disk, connects to [Destination], in the server that is to have it, and pushes.
//
// Both work on a [github.com/flexnbd/flexnbd/core/export.Export] and know no
// backend, no transport, no command line. What they have to remember over a crash
// stands in the records of package owner.
//
// The hand-over is a two-phase commit with the source as coordinator. Its rules
// were checked with a model (/docs/migration-protocol.md says what a message means,
// byte by byte); whoever changes a rule here changes that first.
//
// # The destination
//
//	d := mirror.NewDestination(mirror.DestinationConfig{
//		Export: e, Records: records, Waiting: true, Log: log,
//		Address: func() transport.Address { return home },
//	})
//	// session.Config.Migration = d for every connection of this disk
//	select {
//	case <-d.Owned(): // go to the serving address, then
//		d.Serving(true)
//	case err := <-d.Fatal(): // nobody serves; exit 1
//	}
//	...
//	d.Close() // before the sessions are waited for
//
// A server that owns its disk has a Destination too, with Waiting false: it lets
// clients in, takes no data, and acknowledges the COMMIT that it took the disk over
// by, however often that is repeated.
//
//	            hello, data                PREPARE: flush, record
//	waiting -----------------> receiving -------------------------> prepared
//	   ^                        |     ^                              |    |
//	   |      attempt over      |     |    data of a next attempt    |    |
//	   +------------------------+     +------------------------------+    |
//	                                    the record is withdrawn before    |
//	                                                                      |
//	      COMMIT or promote, for the id in the record: it is renamed      |
//	   +------------------------------------------------------------------+
//	   |
//	   +--- durable -----------> owner ----- Serving(true) -----> lets clients in
//	   |                           ^
//	   |                           +-- a server that was started with its own disk
//	   |
//	   +--- perhaps not -------> uncertain: acknowledges nothing, serves nobody
//
// Receiving and prepared are no more than the attempt that is under way and the
// record that is there; only owner and uncertain are for ever. A disconnect never
// makes an owner, whatever arrived before it.
//
// An attempt is one try of one source, on one or more connections:
//
//	hello with a new id
//	       |
//	       v            all older          PREPARE
//	    fencing ------------------> open ----------> sealed (no more data)
//	       |     connections ended    |                |
//	       +--------------------------+----------------+----> over
//
// It is over for good, and refuses everything, when a hello with another id has
// fenced it, when one of its connections was lost or the last one left, when a
// write, a flush or a PREPARE failed, and when somebody took over. A connection
// that brings the id of an attempt that is over is turned away: what it was told
// before may have been lost.
//
// Fencing is what makes late messages harmless. From the moment of the new hello
// no request of an older connection begins; the new hello is answered, and hence
// the first new request sent, only when those that had begun have ended, a
// PREPARE in hand and a write inside a plugin included.
//
// A sender with the oldstyle handshake (flexnbd 0.x, `listen --handshake oldstyle`)
// has no id and no PREPARE. Its ENTRUST stands for PREPARE, with an id made up here,
// and its goodbye (DISC) for COMMIT; a goodbye without ENTRUST counts only when every
// byte of the disk arrived on that connection.
//
// # Locks of the destination
//
// Destination.mu guards everything that the destination knows, its attempts and
// senders included. Records are read and written with it held: what a record says
// and what is let in because of it must not come apart, and each takes no longer
// than a few fsyncs. Nothing waits with it held for the network, for the disk's
// own data, or for another connection: Link.Cut and Link.Ended are used outside.
// The order is Destination.mu, then the lock inside owner.Records.
package mirror
