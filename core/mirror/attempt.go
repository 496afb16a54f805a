// SPDX-License-Identifier: GPL-3.0-or-later

package mirror

import (
	"errors"
	"fmt"

	"github.com/flexnbd/flexnbd/core/owner"
	"github.com/flexnbd/flexnbd/core/session"
)

// attempt is one try of one source to migrate the disk to here, on one or more
// connections. The package comment draws its states. Destination.mu guards it.
type attempt struct {
	id       owner.ID
	source   owner.ID  // zero for an oldstyle sender
	replaces owner.ID  // the prepared id that its data may withdraw
	covered  *coverage // what an oldstyle sender has written; nil for others

	ready  chan struct{} // closed when its first hello is answered: nothing older is under way
	over   chan struct{} // closed when the attempt is over
	ending error         // why; nil while it is not

	began    bool // its first data has been let in
	broken   bool // a write or a flush of it has failed, which is why it is over
	sealed   bool // PREPARE has come: no more data
	prepared bool // and succeeded

	received int64 // bytes of the disk that its writes and zeroings covered
}

// Why attempts end.
var (
	errFenced   = errors.New("its source has begun another attempt")
	errLost     = errors.New("one of its connections was lost")
	errLeft     = errors.New("its sender has left")
	errTakeOver = errors.New("the disk is being taken over")
	errClosed   = errors.New("this server stops")
)

func newAttempt(id, source, replaces owner.ID) *attempt {
	return &attempt{
		id: id, source: source, replaces: replaces,
		ready: make(chan struct{}), over: make(chan struct{}),
	}
}

// refusesData says why the attempt takes no data, nil if it does.
func (a *attempt) refusesData() error {
	switch {
	case a.broken:
		// In the words, and with the errno, of what broke it: requests that were on
		// their way are refused for the same reason, and may be answered first.
		return fmt.Errorf("migration %v is over: %w", a.id, a.ending)
	case a.ending != nil:
		return refused("migration %v is over: %w", a.id, a.ending)
	case a.sealed:
		return refused("migration %v: data after PREPARE", a.id)
	}
	return nil
}

// becomeOver ends an attempt for good. From now on it begins no write, its PREPARE
// fails if that has not yet written its record, and nobody joins it. It may be
// called again; the first reason stands. The caller holds mu.
func (d *Destination) becomeOver(a *attempt, why error) {
	if a.ending != nil {
		return
	}
	a.ending = why
	close(a.over)
	d.gone.add(a.id)
	log, said := d.log.Warn, "migration attempt failed; waiting for the next"
	switch {
	case errors.Is(why, errTakeOver), errors.Is(why, errLeft): // also after a rehearsal
		log, said = d.log.Info, "migration attempt over"
	case a.prepared:
		log, said = d.log.Info, "migration attempt over; the disk stays prepared"
	}
	log(said, "migration", a.id, "reason", why, "bytes", a.received)
}

// fence ends the attempt that is under way, if there is one, and returns every
// connection that may still have something in hand. The caller holds mu, and
// cuts them when it no longer does.
func (d *Destination) fence(why error) []session.Link {
	if d.attempt != nil {
		d.becomeOver(d.attempt, why)
	}
	var links []session.Link
	for s := range d.live {
		s.cut = true
		links = append(links, s.link)
	}
	return links
}

// recentIDs remembers the last ids that were added.
type recentIDs struct {
	ids  [64]owner.ID // a zero one is none
	next int
}

func (r *recentIDs) add(id owner.ID) {
	r.ids[r.next%len(r.ids)] = id
	r.next++
}

func (r *recentIDs) has(id owner.ID) bool {
	for _, x := range r.ids {
		if x == id {
			return true
		}
	}
	return false
}
