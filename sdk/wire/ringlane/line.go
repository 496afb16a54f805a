// SPDX-License-Identifier: Apache-2.0

package ringlane

import (
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/wire"
	"github.com/flexnbd/flexnbd/sdk/wire/ring"
)

// line is one queue's ring to one process.
//
//	      send                  completion
//	... --------> in a slot --------------> completed, or failed
//	        |        ^   |
//	no slot v        |   | the ring ends
//	      waiting ---+   +----------------> lost
//
// Whoever submits writes to the socket, for as long as it takes anything; one goroutine,
// the receiver, reads from it (inbox.go), and writes what had to wait.
type line struct {
	queue   *queue
	process Process
	socket  *os.File
	raw     syscall.RawConn
	in      inbox
	ended   chan struct{} // closed once its completions have all been taken in, and what was under way is carried on with

	mu      sync.Mutex
	slots   [ring.MaxInFlight]slot
	free    []uint16 // slots, the one used last at the end
	waiting []ticket // for a slot
	out     []byte   // not taken by the socket yet
	over    bool     // nothing is sent any more
	hungUp  bool     // by this end
	heard   bool     // something was completed since the last look of the watch
	ping    time.Time
}

// slot is where a request is while the process has it.
type slot struct {
	ticket
	round uint32 // how often the slot was used: a part of the cookie
	taken bool
}

// pingSlot is in the cookie of a ping, of which there is one at a time.
const pingSlot = ring.MaxInFlight

func newLine(q *queue, p Process, socket *os.File) *line {
	l := &line{queue: q, process: p, socket: socket, ended: make(chan struct{}), free: make([]uint16, ring.MaxInFlight)}
	for i := range l.free {
		l.free[i] = uint16(len(l.free) - 1 - i)
	}
	l.raw, _ = socket.SyscallConn() // fails with a nil file only
	return l
}

func cookie(slot int, round uint32) uint64 { return uint64(round)<<32 | uint64(slot) }

// send sends requests, or says that this ring sends none. alone says that no other
// request is under way.
func (l *line) send(tickets []ticket) (sent, alone bool) {
	if len(tickets) == 0 {
		return true, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return false, false
	}
	for i, t := range tickets {
		if len(l.free) == 0 || len(l.waiting) > 0 {
			l.waiting = append(l.waiting, tickets[i:]...)
			break
		}
		l.put(t)
	}
	l.write()
	return true, len(l.free) == ring.MaxInFlight-1
}

// put gives a request a slot. mu is held.
func (l *line) put(t ticket) {
	i := l.free[len(l.free)-1]
	l.free = l.free[:len(l.free)-1]
	s := &l.slots[i]
	s.ticket, s.taken = t, true
	s.round++
	r := ring.Request{
		Cookie:  cookie(int(i), s.round),
		Offset:  t.request.Offset,
		Length:  uint32(t.request.Length),
		Payload: t.payload,
		Flags:   t.request.Flags,
	}
	switch t.request.Op {
	case wire.OpRead:
		r.Op, r.Flags = ring.OpRead, 0
	case wire.OpWrite:
		r.Op = ring.OpWrite
	default:
		r.Op = ring.OpZero
	}
	l.out = r.Append(l.out)
}

// write gives the socket what it takes without waiting. When it is full, something is
// under way, and the receiver writes on once that is completed. mu is held.
func (l *line) write() {
	for len(l.out) > 0 {
		n := 0
		var err error
		if rawErr := l.raw.Write(func(fd uintptr) bool {
			n, err = unix.Write(int(fd), l.out)
			return true
		}); rawErr != nil {
			return // closed: the receiver finds out
		}
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return // full, or broken, which the receiver finds out
		}
		l.out = append(l.out[:0], l.out[n:]...)
	}
}

// accept takes the completions in b. An error says which rule the process has broken.
// The inbox's lock is held.
func (l *line) accept(b []byte, done *scratch) (used int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for ; len(b)-used >= ring.CompletionSize; used += ring.CompletionSize {
		if err := l.complete(ring.DecodeCompletion(b[used:]), done); err != nil {
			return used, err
		}
	}
	l.heard = true
	for len(l.waiting) > 0 && len(l.free) > 0 {
		l.put(l.waiting[0])
		l.waiting[0] = ticket{}
		l.waiting = l.waiting[1:]
	}
	l.write()
	return used, nil
}

// complete takes one completion. mu is held.
func (l *line) complete(c ring.Completion, done *scratch) error {
	index, round := c.Cookie&(1<<32-1), uint32(c.Cookie>>32)
	if index == pingSlot && !l.ping.IsZero() && c == (ring.Completion{Cookie: cookie(pingSlot, 0)}) {
		l.ping = time.Time{}
		return nil
	}
	if index >= ring.MaxInFlight || !l.slots[index].taken || l.slots[index].round != round {
		return fmt.Errorf("it completed request %#x, which is not under way", c.Cookie)
	}
	s := &l.slots[index]
	if err := c.Check(uint32(s.request.Length)); err != nil {
		return err
	}
	if c.Errno == syscall.ENOTSUP { // an answer to whoever asks for what is fast, and says it all
		s.request.Err = store.ErrNotSupported
	}
	if c.Errno == 0 || s.request.Err != nil {
		done.well = append(done.well, s.ticket)
	} else {
		done.ill = append(done.ill, s.ticket)
	}
	s.ticket, s.taken = ticket{}, false
	l.free = append(l.free, uint16(index))
	return nil
}

// end ends the ring, because the process broke the rules or is gone, or this end has
// hung up. What is under way is carried on with.
func (l *line) end() {
	broken := l.in.broken // nobody reads any more
	l.queue.line.CompareAndSwap(l, nil)
	l.mu.Lock()
	l.over = true
	var had []ticket
	for i := range l.slots {
		if l.slots[i].taken {
			had = append(had, l.slots[i].ticket)
			l.slots[i].ticket, l.slots[i].taken = ticket{}, false
		}
	}
	unsent, hungUp := l.waiting, l.hungUp
	l.waiting, l.out = nil, nil
	l.mu.Unlock()
	switch {
	case broken != nil:
		l.process.Broke(broken)
	case !hungUp:
		l.process.Ended()
	}
	l.queue.lost(had, unsent, l.process)
}

// hangUp ends a ring on which nothing is under way.
func (l *line) hangUp() {
	l.mu.Lock()
	l.over, l.hungUp = true, true
	l.mu.Unlock()
	_ = l.socket.Close()
}

// shut has the receiver read what has come and then end, whoever has the other end.
func (l *line) shut() {
	l.mu.Lock()
	l.over, l.hungUp = true, true
	l.mu.Unlock()
	_ = l.raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_RDWR) })
}

// silent sends a ping if requests wait and nothing was completed lately, and says
// whether the last one has not been answered for limit.
func (l *line) silent(now time.Time, limit time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return false
	}
	l.write() // should the socket have refused some for want of memory
	switch {
	case !l.ping.IsZero() && !l.heard:
		return now.Sub(l.ping) > limit
	case len(l.free) == ring.MaxInFlight || l.heard || !l.ping.IsZero():
		l.heard = false
		return false
	}
	l.ping = now
	l.out = ring.Request{Cookie: cookie(pingSlot, 0), Op: ring.OpPing}.Append(l.out)
	l.write()
	return false
}
