// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"fmt"
	"sync"
	"time"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// underway are the requests of a connection that have arrived and are not
// answered completely, in the order of their arrival. It is kept only where a
// request has a limit on its time.
type underway struct {
	limit time.Duration // 0: none, and nothing is kept

	mu             sync.Mutex
	oldest, newest *call // linked by call.older and call.newer
}

// add is called when a request's header has arrived.
func (u *underway) add(c *call) {
	if u.limit == 0 {
		return
	}
	c.arrived = time.Now()
	u.mu.Lock()
	defer u.mu.Unlock()
	if c.older = u.newest; c.older != nil {
		c.older.newer = c
	} else {
		u.oldest = c
	}
	u.newest = c
}

// remove is called when the last byte of its reply has been sent.
func (u *underway) remove(c *call) {
	if u.limit == 0 {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if c.newer != nil {
		c.newer.older = c.older
	} else {
		u.newest = c.older
	}
	if c.older != nil {
		c.older.newer = c.newer
	} else {
		u.oldest = c.newer
	}
}

// next returns a request whose time is up, or how long none will be.
func (u *underway) next() (late *nbd.Request, wait time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.oldest == nil {
		return nil, u.limit
	}
	if wait = u.limit - time.Since(u.oldest.arrived); wait > 0 {
		return nil, wait
	}
	r := u.oldest.request // a copy: the call ends when it likes
	return &r, 0
}

// watchOverdue disconnects a client one of whose requests takes too long, whoever
// is to blame for it: the client that does not send a payload or take a reply, or
// the backend that does not answer. It has one timer for all requests, which wakes
// it at most once in the limit's time unless requests become old.
func (t *transmission) watchOverdue(done <-chan struct{}) {
	timer := time.NewTimer(t.underway.limit)
	defer timer.Stop()
	for {
		select {
		case <-done:
			return
		case <-timer.C:
		}
		late, wait := t.underway.next()
		if late != nil {
			t.disconnect(late)
			return
		}
		timer.Reset(wait)
	}
}

// disconnect cuts the connection, so that nobody waits for the client any more,
// nor for a gate that is held. What the backend has not answered is still waited
// for.
func (t *transmission) disconnect(r *nbd.Request) {
	t.log.Warn("client disconnected, since one of its requests takes too long", "command", r.Command, "offset", r.Offset, "length", r.Length, "limit", t.underway.limit)
	t.fail(fmt.Errorf("%s of %d bytes at %d took more than %v", r.Command, r.Length, r.Offset, t.underway.limit))
	t.cut()
	_ = t.conn.Close()
}
