// SPDX-License-Identifier: Apache-2.0

package ringlane

import (
	"context"
	"fmt"
	"math/bits"
	"sync"
	"time"
	"unsafe"

	"github.com/flexnbd/flexnbd/sdk/wire"
	"github.com/flexnbd/flexnbd/sdk/wire/fifo"
	"github.com/flexnbd/flexnbd/sdk/wire/ring"
)

// Memory is divided into blocks of a power of two, from minBlock to wire.MaxPayload: a
// buddy system. Of the blocks that are free the first in memory is taken, so that what
// was used last is mostly used next: its pages are there, and in the processor's cache.
//
// A few small blocks in the wrong places keep a large one waiting where a mere number of
// bytes would not; it is first come, first served then, and everything that is lent comes
// back.
const (
	minBits   = 12
	maxBits   = 20
	numOrders = maxBits - minBits + 1

	// arenaSize is a queue's memory in bytes; no page of it is there before it is used.
	arenaSize = wire.DefaultBudget
	// idleTime is how long memory may lie unused before its pages are given back: at
	// least this, at most twice this.
	idleTime = 5 * time.Second
)

// arena is the payload memory of one queue.
type arena struct {
	memory *ring.Memory
	line   *fifo.Line[int] // parts are offsets

	// The line's.

	free  [numOrders]bitmap // a bit for each block of that order
	order []uint8           // of the block that begins at each minBlock
	lent  int               // bytes
	used  bool              // since the last look
	armed bool              // a look is on its way
	over  bool              // close was called

	spare sync.Pool // of payloads without memory
}

// bitmap finds its first bit quickly enough for the few words that it has.
type bitmap []uint64

func (b bitmap) set(i int)      { b[i/64] |= 1 << (i % 64) }
func (b bitmap) clear(i int)    { b[i/64] &^= 1 << (i % 64) }
func (b bitmap) has(i int) bool { return b[i/64]&(1<<(i%64)) != 0 }

func (b bitmap) first() int {
	for i, word := range b {
		if word != 0 {
			return i*64 + bits.TrailingZeros64(word)
		}
	}
	return -1
}

func newArena() (*arena, error) {
	m, err := ring.NewMemory(arenaSize)
	if err != nil {
		return nil, err
	}
	a := &arena{memory: m, order: make([]uint8, arenaSize>>minBits)}
	a.spare.New = func() any { return new(wire.Payload) }
	for order := range a.free {
		a.free[order] = make(bitmap, (arenaSize>>(minBits+order)+63)/64)
	}
	for i := range arenaSize >> maxBits {
		a.free[numOrders-1].set(i)
	}
	a.line = fifo.New(a.take, a.give)
	return a, nil
}

// orderOf is the order of the least block that holds n bytes.
func orderOf(n int) int {
	if n < 1 || n > wire.MaxPayload {
		panic(fmt.Sprintf("ringlane: a payload of %d bytes was asked for, outside 1 to %d", n, wire.MaxPayload))
	}
	return max(bits.Len(uint(n-1)), minBits) - minBits
}

// take is the line's: it returns the offset of a block that holds n bytes.
func (a *arena) take(n int) (off int, ok bool) {
	want := orderOf(n)
	for order := want; order < numOrders; order++ {
		block := a.free[order].first()
		if block < 0 {
			continue
		}
		a.free[order].clear(block)
		for ; order > want; order-- { // the upper half stays free
			block *= 2
			a.free[order-1].set(block + 1)
		}
		off = block << (minBits + want)
		a.order[off>>minBits] = uint8(want)
		a.lent += 1 << (minBits + want)
		a.used = true
		return off, true
	}
	return 0, false
}

// give is the line's: it takes a block back and joins it with its other half, if that is
// free, and so on.
func (a *arena) give(off int) {
	order := int(a.order[off>>minBits])
	a.lent -= 1 << (minBits + order)
	block := off >> (minBits + order)
	for ; order < numOrders-1 && a.free[order].has(block^1); order++ {
		a.free[order].clear(block ^ 1)
		block /= 2
	}
	a.free[order].set(block)
	if a.lent == 0 {
		a.atRest()
	}
}

// atRest is called when nothing is lent: the pages go back if that lasts.
func (a *arena) atRest() {
	switch {
	case a.over:
		_ = a.memory.Close()
	case !a.armed:
		a.armed = true
		time.AfterFunc(idleTime, func() { a.line.Do(a.look) })
	}
}

// look gives the pages back if none was used for idleTime, and else looks again later.
func (a *arena) look() {
	a.armed = false
	if a.over || a.lent > 0 {
		return // whoever gives the last one back arms it again
	}
	if a.used {
		a.used = false
		a.atRest()
		return
	}
	_ = a.memory.Release(0, arenaSize)
}

// close frees the memory as soon as nothing of it is lent.
func (a *arena) close() {
	a.line.Do(func() {
		a.over = true
		if a.lent == 0 {
			_ = a.memory.Close()
		}
	})
}

// payload makes a payload of n bytes of the block at off.
func (a *arena) payload(off, n int) *wire.Payload {
	p := a.spare.Get().(*wire.Payload)
	p.Bytes = a.memory.Bytes[off : off+n : off+1<<(minBits+orderOf(n))]
	return p
}

func (a *arena) borrow(ctx context.Context, n int) (*wire.Payload, error) {
	off, err := a.line.Take(ctx, n)
	if err != nil {
		return nil, err
	}
	return a.payload(off, n), nil
}

func (a *arena) tryBorrow(n int) *wire.Payload {
	off, ok := a.line.Try(n)
	if !ok {
		return nil
	}
	return a.payload(off, n)
}

func (a *arena) giveBack(p *wire.Payload) {
	off, size := a.offset(p.Bytes), cap(p.Bytes)
	if off < 0 || size < 1<<minBits || size&(size-1) != 0 || off&(size-1) != 0 {
		panic(fmt.Sprintf("ringlane: a payload with room for %d bytes was returned, which was never borrowed here or was cut at the front", size))
	}
	p.Bytes = nil
	a.spare.Put(p)
	a.line.Give(off)
}

// offset is where b lies in the memory, or -1 if it does not.
func (a *arena) offset(b []byte) int {
	begin := uintptr(unsafe.Pointer(unsafe.SliceData(a.memory.Bytes)))
	off := uintptr(unsafe.Pointer(unsafe.SliceData(b))) - begin
	if off >= arenaSize || uintptr(len(b)) > arenaSize-off { // below the memory it is huge
		return -1
	}
	return int(off)
}
