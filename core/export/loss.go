// SPDX-License-Identifier: GPL-3.0-or-later

package export

import (
	"context"
	"fmt"
)

// PendingLoss says what clients have to be told before the disk may be given away;
// nil if there is nothing. Acknowledged writes can be lost in two ways: a flush
// failed, after which every flush fails (see Flush), or the backend crashed (see
// Restarted). A client learns of either by a flush or FUA of its own that fails. At
// another server, which knows of neither, the same flush would succeed, and the
// client take for durable what is gone.
//
// A loss is pending until each open connection has been told once, and somebody at
// all where none is open. A client that was told knows that its data is not safe, and
// may be told otherwise by the disk's next home; so a failed flush, which lasts as
// long as this process, does not keep the disk from being moved off a failing
// storage for ever.
//
// A connection that was made after a failed flush counts, whoever has been told
// before: flushes go on failing for it, too. One that was made after somebody had
// been told of a crash does not.
//
// A request that tells counts as soon as it is on its way to the client.
func (e *Export) PendingLoss() error {
	failed := e.flusher.failure()
	e.mu.Lock()
	defer e.mu.Unlock()
	lost, unaware := 0, 0
	for q := range e.queues {
		if q.lost.Load() {
			lost++
		}
		if !q.told.Load() {
			unaware++
		}
	}
	switch {
	case failed != nil && (unaware > 0 || !e.told.Load()):
		return pending(failed, unaware)
	case lost > 0 || e.lost.Load():
		return pending(errLost, lost)
	}
	return nil
}

// LookForLoss is PendingLoss after a flush of the storage. Without one, a write-back
// that failed behind everybody's back is not known yet: an operating system says so to
// whoever flushes next. Nobody is told here; whoever has to be still is.
//
// It does not pass the gate. When ctx ends it returns what is known by then.
func (e *Export) LookForLoss(ctx context.Context) error {
	_ = e.flusher.flush(ctx) // kept where it matters
	return e.PendingLoss()
}

func pending(what error, connections int) error {
	if connections == 0 {
		return fmt.Errorf("%w; no client has been told of that, and none is connected", what)
	}
	return fmt.Errorf("%w; %d of the clients that are connected have not been told of that by a flush that failed", what, connections)
}

// tell notes that this connection is about to get the error with which every flush
// fails.
func (q *queue) tell() {
	q.told.Store(true)
	q.export.told.Store(true)
}
