// SPDX-License-Identifier: Apache-2.0

package align

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"github.com/flexnbd/flexnbd/sdk/rangelock"
	"github.com/flexnbd/flexnbd/sdk/store"
)

// readers keeps reads and the write-backs of read-modify-writes apart where they
// touch the same block:
//
//	at, err := readers.enter(ctx, blocks)      err := readers.shutOut(ctx, blocks)
//	... read ...                               ... write back ...
//	readers.leave(at)                          readers.letIn()
//
// While nothing is written back, which is nearly always, a read only notes its
// blocks on a seat. It then looks whether a write-back has begun meanwhile; a
// write-back makes itself known first and looks at the seats then. So at least one
// of the two sees the other, whichever comes first. A read that sees a write-back,
// or finds no seat, takes the range lock, shared; whoever writes back has that for
// its blocks alone, and waits for the seats that touch them.
type readers struct {
	locks *rangelock.Lock
	shift uint // log2 of the unit that spans count in, in bytes

	// Read by every read and hardly ever written, so it is kept away from what is.
	_       cacheLine
	writing atomic.Int64 // write-backs that have made themselves known
	_       cacheLine

	seats [seatCount]seat

	mu   sync.Mutex    // for left alone: nothing is locked, called or waited for under it
	left chan struct{} // closed when a seat becomes free; nil if nobody waits for that
}

const (
	// seatCount is more than the reads that are mostly under way; a write-back looks
	// at all seats.
	seatCount = 64
	// seatsTried is how many seats a read tries before it takes the lock.
	seatsTried = 4
)

// cacheLine separates what different processors write.
type cacheLine [64]byte

// seat is where one read notes its blocks.
type seat struct {
	taken atomic.Uint64 // a span; 0 if the seat is free
	_     [56]byte
}

// place is what a read has: a seat or a claim.
type place struct {
	seat  *seat
	claim *rangelock.Claim
}

// newReaders takes the lock under which read-modify-writes have their blocks
// alone.
func newReaders(locks *rangelock.Lock, info store.Info) *readers {
	r := &readers{locks: locks}
	for int64(1)<<r.shift < int64(info.MinBlock) || info.Size>>r.shift >= 1<<32-1 {
		r.shift++
	}
	return r
}

// enter waits until nothing that touches these blocks is written back, and keeps it
// so until leave. The only error is the context's, and then there is no place.
func (r *readers) enter(ctx context.Context, blocks run) (place, error) {
	if s := r.sit(spanOf(blocks, r.shift)); s != nil {
		return place{seat: s}, nil
	}
	claim, err := r.locks.Lock(ctx, blocks.start, blocks.end, false)
	return place{claim: claim}, err
}

// leave gives a place back.
func (r *readers) leave(at place) {
	if at.seat != nil {
		r.stand(at.seat)
	} else {
		r.locks.Unlock(at.claim)
	}
}

// sit takes a seat, or returns nil while anything is written back, and where seats
// are hard to find.
func (r *readers) sit(s span) *seat {
	if r.writing.Load() != 0 {
		return nil
	}
	first := rand.Uint32()
	for i := range uint32(seatsTried) {
		free := &r.seats[(first+i)%seatCount]
		if !free.taken.CompareAndSwap(0, uint64(s)) {
			continue
		}
		if r.writing.Load() == 0 {
			return free
		}
		r.stand(free) // the write-back may wait for this seat, or have missed it
		return nil
	}
	return nil
}

// stand frees a seat, and wakes the write-backs, if there are any.
func (r *readers) stand(s *seat) {
	s.taken.Store(0)
	if r.writing.Load() == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.left != nil {
		close(r.left)
		r.left = nil
	}
}

// shutOut waits until no read touches these blocks, and keeps it so until letIn. The
// caller has the blocks locked, exclusively. The only error is the context's, and then
// nobody is shut out.
func (r *readers) shutOut(ctx context.Context, blocks run) error {
	r.writing.Add(1)
	wanted := spanOf(blocks, r.shift)
	for i := range r.seats {
		for wanted.touches(&r.seats[i]) {
			left := r.nextToLeave()
			if !wanted.touches(&r.seats[i]) { // it left before it could be seen leaving
				break
			}
			select {
			case <-left:
			case <-ctx.Done():
				r.letIn()
				return ctx.Err()
			}
		}
	}
	return nil
}

// letIn ends what shutOut began.
func (r *readers) letIn() { r.writing.Add(-1) }

// nextToLeave returns a channel that is closed when a seat becomes free.
func (r *readers) nextToLeave() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.left == nil {
		r.left = make(chan struct{})
	}
	return r.left
}

// span is a run in one word: the first unit in the upper half, the first one behind
// it in the lower half. A unit is a block, or several on disks of more than 2^32
// blocks, whose spans are a little larger than what is read.
type span uint64

// spanOf is never 0, since no run that is read or written back is empty.
func spanOf(r run, shift uint) span {
	return span(uint64(r.start)>>shift<<32 | (uint64(r.end-1)>>shift + 1))
}

// touches says whether somebody sits there who reads a part of s.
func (s span) touches(at *seat) bool {
	other := span(at.taken.Load())
	return s>>32 < other&(1<<32-1) && other>>32 < s&(1<<32-1)
}
