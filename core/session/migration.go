// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"context"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// Migration is what a server knows of migrations: whether its disk is its own yet,
// and who may send it one. A session asks it in the handshake, and tells a sender's
// requests to the [Sender] that it was given. Nothing here knows what a migration
// is: that is package mirror's business.
//
// The methods may be called from many goroutines, one for each connection.
type Migration interface {
	// Guest says why a client that did not bring the migration option is not
	// let in, in a sentence for people. Empty lets it in. It is asked whenever
	// such a client asks for the disk.
	Guest() (refusal string)

	// Hello answers the migration option. It may take long, since an older
	// connection of the same sender has to end first; ctx ends with the
	// handshake's time. An error is told to the client and ends nothing: it may
	// be a [*Refusal].
	Hello(ctx context.Context, hello nbd.MigrationHello, link Link) (Sender, nbd.MigrationAnswer, error)

	// Oldstyle is asked when a connection with the oldstyle handshake begins, in
	// which nothing can be negotiated: the sender where the disk waits for one,
	// nil where the connection is a client's. An error hangs up.
	Oldstyle(ctx context.Context, link Link) (Sender, error)
}

// Sender is one connection of somebody who migrates a disk to this server, or who
// asks for the answer to that. All but Left may be called by several goroutines at
// once. Begin and Left may wait for the disk, and the connection waits with them;
// the rest of the server waits for End and Flushed.
type Sender interface {
	// Begin is called before each write or zeroing of length bytes at off is
	// carried out. An error refuses the request. It may wait for the disk.
	Begin(off, length int64) error
	// End is called once for each Begin that returned nil, with what became of the
	// request, before that is told to the client.
	End(err error)
	// Flushed is called with what became of a flush.
	Flushed(err error)

	// Prepare, Commit and Entrust answer the commands of these names. nil is
	// success, which the client is told at once.
	Prepare(ctx context.Context) error
	Commit(ctx context.Context) error
	// Entrust is the command of flexnbd 0.x, on connections with the oldstyle
	// handshake.
	Entrust(ctx context.Context) error

	// Left is called last, once nothing of the connection is carried out any
	// more. disc: the client said goodbye.
	Left(disc bool)
}

// Link is a connection as a [Migration] sees it.
type Link interface {
	// Cut ends the connection. It does not wait.
	Cut()
	// Ended is closed when nothing of the connection is carried out any more,
	// and Left has returned.
	Ended() <-chan struct{}
	// Peer says who is at the other end, for the log.
	Peer() string
}

// Refusal is an error of [Migration.Hello] with a reply type of its own. Any
// other is told as ERR_POLICY.
type Refusal struct {
	Reply nbd.Reply
	Text  string
}

func (r *Refusal) Error() string { return r.Text }

// Admission is what limits the clients of a server, and has to know for that what a
// connection is: a migration may not be kept out because of them. One belongs to one
// connection, which calls its methods one at a time.
type Admission interface {
	// Client is asked whenever a client is about to be let to the disk: why there
	// is no room for it, in a sentence for people. Empty lets it in.
	Client() (refusal string)
	// Migration is told that the connection is none of a client, but a
	// migration's. It is called once, and Client never after it.
	Migration(purpose nbd.MigrationPurpose)
}
