// SPDX-License-Identifier: GPL-3.0-or-later

package client

// maxInFlight bounds the table, and with it how many requests are sent before
// replies come; what is beyond waits in the queue.
const maxInFlight = 4096

// table holds the calls in flight by their cookies. A cookie is a slot's number
// in the low 32 bits and how often the slot has been used above them, so that a
// reply that is repeated, or late, or invented finds nothing.
type table struct {
	slots []slot
	free  []uint32 // slots without a call
	count int      // slots with one
}

type slot struct {
	call *Call
	uses uint32
}

func (t *table) full() bool { return t.count == maxInFlight }

// put gives a call a slot and returns its cookie. The table must not be full.
func (t *table) put(c *Call) (cookie uint64) {
	var n uint32
	if last := len(t.free) - 1; last >= 0 {
		n = t.free[last]
		t.free = t.free[:last]
	} else {
		n = uint32(len(t.slots))
		t.slots = append(t.slots, slot{})
	}
	s := &t.slots[n]
	s.call = c
	s.uses++
	t.count++
	return uint64(s.uses)<<32 | uint64(n)
}

// take returns the call of a cookie and frees its slot; nil if there is none.
func (t *table) take(cookie uint64) *Call {
	n := uint32(cookie)
	if uint64(n) >= uint64(len(t.slots)) {
		return nil
	}
	s := &t.slots[n]
	if s.call == nil || s.uses != uint32(cookie>>32) {
		return nil
	}
	c := s.call
	s.call = nil
	t.free = append(t.free, n)
	t.count--
	return c
}

// takeAll empties the table.
func (t *table) takeAll() callList {
	var all callList
	for _, s := range t.slots {
		if s.call != nil {
			all.push(s.call)
		}
	}
	*t = table{}
	return all
}
