// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"fmt"
	"math/bits"
	"sync"
	"time"
)

// Payload memory comes in classes, powers of two from 4 KiB to MaxPayload.
const (
	minClassBits = 12
	maxClassBits = 20
	numClasses   = maxClassBits - minClassBits + 1
)

const (
	// maxIdle is the most that one class keeps for later, in bytes.
	maxIdle = 16 << 20
	// idleTime is how long memory may lie unused before it is given back:
	// at least this, at most twice this.
	idleTime = 5 * time.Second
)

// payloads is where every queue of the process gets payload memory from: a busy
// connection uses what an idle one has warmed, and idle connections own nothing.
var payloads pool

// pool keeps one stack of idle payloads for each class.
//
// It is a stack, and one for the whole process, because what counts is that the
// memory used last is used next: its pages are mapped and in the CPU's cache
// (1 MiB reads ran at four times the rate that fresh memory gave). sync.Pool
// would come close, but keeps a list for each P, while payloads are borrowed by
// the goroutine that reads a socket and returned by the one that writes it: on
// different Ps it steals the coldest. It also lets go only when the garbage
// collector runs, which a server that allocates nothing rarely does.
type pool struct {
	classes [numClasses]class
}

// class is a stack of idle payloads of one size.
type class struct {
	mu    sync.Mutex
	idle  []*Payload // the last used is last
	low   int        // the fewest that lay idle since the last trim
	armed bool       // a trim is on its way
}

// classOf returns the class for n bytes, 1 to MaxPayload.
func classOf(n int) int {
	if n < 1 || n > MaxPayload {
		panic(fmt.Sprintf("wire: a payload of %d bytes was asked for, outside 1 to %d", n, MaxPayload))
	}
	return max(bits.Len(uint(n-1)), minClassBits) - minClassBits
}

// classSize returns the bytes that a payload of class c occupies.
func classSize(c int) int { return 1 << (c + minClassBits) }

// classOfPayload finds the class again by the slice's capacity, which survives
// shortening but not cutting bytes off the front.
func classOfPayload(p *Payload) int {
	n := cap(p.Bytes)
	if n < 1<<minClassBits || n > MaxPayload || n&(n-1) != 0 {
		panic(fmt.Sprintf("wire: a payload with room for %d bytes was returned, which was never borrowed or was cut at the front", n))
	}
	return classOf(n)
}

// get returns a payload of n bytes with undefined content.
func (p *pool) get(n int) *Payload {
	c := classOf(n)
	if pl := p.classes[c].pop(); pl != nil {
		pl.Bytes = pl.Bytes[:n]
		return pl
	}
	return &Payload{Bytes: make([]byte, n, classSize(c))}
}

// put takes a payload back.
func (p *pool) put(pl *Payload) {
	c := classOfPayload(pl)
	p.classes[c].push(pl, maxIdle/classSize(c))
}

func (c *class) pop() *Payload {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := len(c.idle) - 1
	if n < 0 {
		return nil
	}
	pl := c.idle[n]
	c.idle[n] = nil
	c.idle = c.idle[:n]
	c.low = min(c.low, n)
	return pl
}

// push keeps a payload unless limit are kept already.
func (c *class) push(pl *Payload, limit int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.idle) >= limit {
		return
	}
	c.idle = append(c.idle, pl)
	if !c.armed {
		c.armed = true
		time.AfterFunc(idleTime, c.trim)
	}
}

// trim lets go of the payloads that nobody has used since the last trim: those
// at the bottom of the stack, down to where it was emptiest. It comes again
// while any are left, so that a process at rest holds neither memory nor timer.
func (c *class) trim() {
	c.mu.Lock()
	defer c.mu.Unlock()
	left := copy(c.idle, c.idle[c.low:])
	clear(c.idle[left:])
	c.idle = c.idle[:left]
	c.low = left
	c.armed = left > 0
	if c.armed {
		time.AfterFunc(idleTime, c.trim)
	}
}
