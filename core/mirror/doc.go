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
// # The source
//
//	s := mirror.NewSource(mirror.SourceConfig{
//		Export: e, Records: records, Dial: dial, Log: log,
//		Leave: closeListener, Cut: cutClients, Unlink: removeImage,
//	})
//	defer s.Close()
//	err := s.Start(ctx, mirror.Order{To: there}) // nil: it goes on by itself
//	select {
//	case <-s.Departed(): // exit 0
//	case err := <-s.Fatal(): // exit 1, the gate stays held
//	}
//
// A migration is attempts, one after the other, until one gives the disk away:
//
//	                     an attempt ends alone, the gate is open
//	waiting-to-retry <-------------------------------------------------+
//	      |   ^                                                        |
//	  1 s |   | failed                                                 |
//	      v   |                                                        |
//	   connecting --> copying --> converging --> flushing --> holding -+- preparing -+
//	                                |    ^ ^        |            |                   |
//	     passes stop shrinking      |    | +--------+            | deadline          |
//	                                v    | too much              | missed            |
//	                           write-through <-------------------+                   |
//	                                                                                 |
//	- - - - - - - - - - - - - - - the commit point - - - - - - - - - - - - - - - - - | -
//	                                                       .MIGRATED is renamed      |
//	departed <------- committing <------- departing <--------------------------------+
//	         noted,   COMMIT, again       listening socket   |
//	         unlinked and again           and gate closed    +--> uncertain: the
//	                                                              gate stays held
//
// Above the line Break, Close, a lost connection and any error end the attempt, and
// the gate opens whatever the destination does: the hold has a timer that asks nobody
// (type held). Below it nothing opens the gate any more. Break between the two waits
// for the rename and then knows.
//
// Two parties send ranges of the disk, and each has the range locked meanwhile
// (transfer.ranges): the copy in the background (type copier, 16 MiB on their way),
// and in the write-through phase each client's write (type through). What they send is
// what they read from the disk under the lock, so the destination never gets an older
// state of a range after a newer one. A change marks its granules dirty after it has
// landed (type tracker); the background clears the marks, then reads. So at any time a
// range on which the two sides differ is dirty, or locked by somebody who is going to
// send it, or belongs to a client's request that is still inside the gate; once the
// gate is drained, nothing is dirty and nothing is locked, they are the same.
//
// Lost writes of which clients have not been told yet keep the disk here, see
// errUntold: the hold does not begin, or is given up before PREPARE.
//
// A write in the write-through phase waits for the destination for two seconds at
// most, then it is marked like any other. An error of the destination ends the
// attempt and never a client's request.
//
// # Goroutines and locks of the source
//
// mirroring.run is the migration's one goroutine; it runs the attempts one by one and
// waits in transfer.end for all that an attempt has started: the connections', their
// watchers', the readers', and those of writes that wait for their turn.
//
// Source.mu is taken before mirroring.mu. through.mu is taken before the locks inside
// transfer.ranges, limit and the reader's memory budget; held.mu before the gate's.
// All others are leaves. Nobody waits for the network, the disk or another goroutine
// with one of them held, and no client is resumed; a range's lock is no such lock, and
// is held while its copy is under way.
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
