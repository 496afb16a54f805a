// SPDX-License-Identifier: GPL-3.0-or-later

package export

import (
	"fmt"

	"github.com/flexnbd/flexnbd/sdk/store"
)

// Restarted says that a new process has taken the place of the store's, and has
// not been called yet. Nothing is known to be zero any more; the map is built
// anew.
//
// Where acknowledged writes survive a process only if they were flushed, and there
// were others, every connection is told so once, at its next flush or FUA: a flush
// answers for the writes of all connections (NBD_FLAG_CAN_MULTI_CONN), also of
// those that have been closed. A connection that is made while nobody has been
// told yet is told too.
func (e *Export) Restarted() {
	e.zeros.forget()
	e.startBuild()
	if !e.flusher.mayHaveLost() {
		return
	}
	if t := e.tracker.Load(); t != nil {
		(*t).Changed(0, e.info.Size, nil)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lost.Store(true)
	for q := range e.queues {
		q.lost.Store(true)
	}
}

// Failed says that the store is about to fail every call, for good. Nothing is
// known to be zero any more, so that a client gets its error wherever it reads, and
// no zeroes of a disk that is gone.
func (e *Export) Failed() { e.zeros.forget() }

// errLost is what a connection is told once.
var errLost = fmt.Errorf("the backend crashed, and with it went writes that had been acknowledged but not flushed: %w", store.ErrIO)

// takeLost returns errLost if this connection has still to be told.
func (q *queue) takeLost() error {
	if q.lost.CompareAndSwap(true, false) {
		q.export.lost.Store(false)
		return errLost
	}
	return nil
}
