// SPDX-License-Identifier: GPL-3.0-or-later

package export

import "github.com/flexnbd/flexnbd/sdk/wire"

// Tracker follows the changes to a disk. A migration notes what it has to send
// again.
type Tracker interface {
	// Changed is called when a write, a zeroing or a trim of a range has ended,
	// well or not, before anybody hears of it and before it leaves the gate. A
	// request that was carried out in parts is told of part by part; what was left
	// out, since it would have changed nothing, is not.
	//
	// It must not block. If it returns true, the request goes no further until
	// resume is called, once, by any goroutine, perhaps before Changed returns.
	//
	// With a nil resume nobody waits, and the result means nothing: the store has
	// lost changes of the range that had been told of before.
	Changed(off, length int64, resume func()) bool
}

// Track has the changes told to t from now on, in place of whoever was told
// before; nil tells nobody. A change that t is not told of had landed before Track
// returned: it is in whatever is read from the disk afterwards, the extent map
// included.
func (e *Export) Track(t Tracker) {
	if t == nil {
		e.tracker.Store(nil)
		return
	}
	e.tracker.Store(&t)
}

// tracked tells the tracker of a change that has landed. The pointer is read after
// the landing, which is what Track's promise rests on. It returns true if the
// tracker keeps o for a while.
func (q *queue) tracked(o *op) bool {
	t := q.export.tracker.Load()
	if t == nil {
		return false
	}
	return (*t).Changed(o.request.Offset, o.request.Length, func() { q.resume(o) })
}

// resume is what follows the landing of an op that the tracker has kept.
func (q *queue) resume(o *op) {
	whole := q.settle(o)
	if whole == nil {
		return
	}
	done := [1]*wire.Request{whole.session}
	whole.free()
	q.complete(done[:])
}
