// SPDX-License-Identifier: GPL-3.0-or-later

package mirror

import (
	"context"
	"sync"
	"time"

	"github.com/flexnbd/flexnbd/core/client"
	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/sdk/rangelock"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

const (
	// A client's write waits for the destination at most throughLimit; the slots are
	// looked at every throughTick.
	throughLimit = 2 * time.Second
	throughTick  = 100 * time.Millisecond

	// At most numSlots writes are sent at a time, and of memory for them one queue's
	// budget. What comes beyond is marked.
	numSlots = 64

	// throughBlock is what ranges are made multiples of: smaller ones cost the
	// destination a read.
	throughBlock = 4 << 10
)

// through sends what clients write to the destination while they wait, so that the
// copy in the background meets no new dirt and comes to an end.
//
// What is sent is read back from the local disk, under the same lock on the range as
// the background's copies: lock, read, send, reply, unlock. Two writes that overlap
// may have landed in either order, and only the disk knows in which; whoever reads
// under the lock sends what both sides then have. It also keeps no client's payload.
//
// A slot is one write on its way:
//
//	free ---- take ----> waiting ---- reply: the client is resumed ----> free
//	 ^                      |
//	 |                      | too long, or the hold begins: the range is marked
//	 |                      v and the client resumed
//	 +----- reply -------- late
//
// A late one keeps its lock until it is answered, so that what is copied in its place
// is sent after it; one that had not been sent yet no longer is.
type through struct {
	t      *transfer
	reader wire.Queue
	line   *client.Pipeline

	// group are those that wait for the cap or the lock, those that submit their read,
	// and the watcher. It is added to with mu held and the phase on.
	group sync.WaitGroup

	mu    sync.Mutex
	on    bool
	stop  context.CancelFunc // of ctx; nil while off
	ctx   context.Context    // of those that wait
	slots [numSlots]slot
	free  []*slot
	empty chan struct{} // closed when every slot is free; nil if nobody waits for that
}

// slot is one write on its way.
type slot struct {
	owner       *through
	off, length int64 // what is sent, whole blocks
	from, size  int64 // what was written
	began       time.Time
	resume      func() // nil unless the client waits; guarded by through.mu

	claim    *rangelock.Claim
	request  wire.Request
	call     client.Call
	answered func(error)
}

func newThrough(t *transfer) *through {
	h := &through{t: t, line: t.remote.through()}
	h.reader = t.export.NewReader(h.landed)
	for i := range h.slots {
		s := &h.slots[i]
		s.owner, s.answered = h, s.reply
		h.free = append(h.free, s)
	}
	return h
}

// start begins the write-through phase. It does nothing where that is on.
func (h *through) start(ctx context.Context) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.on {
		return
	}
	h.on = true
	h.ctx, h.stop = context.WithCancel(ctx)
	ctx = h.ctx
	h.group.Go(func() { h.watch(ctx) })
}

// end ends the phase: whoever waits is marked and resumed.
func (h *through) end() {
	h.mu.Lock()
	if h.on {
		h.on = false
		h.stop()
	}
	h.mu.Unlock()
	h.expire(time.Time{})
}

// isOn says whether the phase is on.
func (h *through) isOn() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.on
}

// settle waits until nothing is sent any more, after end. The error is ctx's, also if
// that has ended meanwhile: a slot whose copy failed becomes free too.
func (h *through) settle(ctx context.Context) error {
	h.mu.Lock()
	if len(h.free) == numSlots {
		h.mu.Unlock()
		return context.Cause(ctx)
	}
	if h.empty == nil {
		h.empty = make(chan struct{})
	}
	empty := h.empty
	h.mu.Unlock()
	select {
	case <-empty:
		return context.Cause(ctx)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// close waits until nothing runs. The phase has ended and the connections are closed.
func (h *through) close() {
	h.group.Wait()
	_ = h.reader.Close()
}

// take makes a change its own, to be sent and then resumed. It returns false where
// the change has to be marked.
func (h *through) take(off, length int64, resume func()) bool {
	from, to, ok := h.blocks(off, off+length)
	if !ok {
		return false
	}
	h.mu.Lock()
	if !h.on || len(h.free) == 0 {
		h.mu.Unlock()
		return false
	}
	payload := h.reader.TryBorrow(int(to - from))
	if payload == nil {
		h.mu.Unlock()
		return false
	}
	s := h.free[len(h.free)-1]
	h.free = h.free[:len(h.free)-1]
	s.off, s.length, s.from, s.size = from, to-from, off, length
	s.began, s.resume = time.Now(), resume
	s.request = wire.Request{Op: wire.OpRead, Offset: s.off, Length: s.length, Data: payload, Owner: s}
	ctx := h.ctx
	quick := h.t.limit.tryThrough(s.length)
	if quick {
		s.claim = h.t.ranges.TryLock(s.off, s.off+s.length, true)
	}
	if s.claim == nil {
		h.group.Go(func() { s.wait(ctx, quick) })
		h.mu.Unlock()
		return true
	}
	h.group.Add(1) // close waits: the reader is not to be closed under s
	h.mu.Unlock()
	s.read()
	h.group.Done()
	return true
}

// blocks widens a range to what the destination takes, and to throughBlock if that
// still fits one request. A range that is too long for one is not taken: a client's
// write comes in parts of at most wire.MaxPayload, so that is a zeroing, which the
// background sends in a few bytes, or a write of that size to a destination with
// large blocks.
func (h *through) blocks(from, to int64) (int64, int64, bool) {
	for _, block := range [...]int64{max(throughBlock, h.t.remote.minBlock()), h.t.remote.minBlock()} {
		start, end := from&^(block-1), min((to+block-1)&^(block-1), h.t.size)
		if end-start <= min(wire.MaxPayload, h.t.remote.longestWrite()) {
			return start, end, true
		}
	}
	return 0, 0, false
}

// wait is for a slot whose turn has not come: it waits for the cap and for the lock.
func (s *slot) wait(ctx context.Context, paid bool) {
	h := s.owner
	if !paid && h.t.limit.waitThrough(ctx, s.length) != nil {
		s.finish(false)
		return
	}
	claim, err := h.t.ranges.Lock(ctx, s.off, s.off+s.length, true)
	if err != nil {
		s.finish(false)
		return
	}
	s.claim = claim
	if !s.isAwaited() {
		s.finish(false) // the background sends it
		return
	}
	s.read()
}

func (s *slot) isAwaited() bool {
	s.owner.mu.Lock()
	defer s.owner.mu.Unlock()
	return s.resume != nil
}

func (s *slot) read() {
	one := [1]*wire.Request{&s.request}
	s.owner.reader.Submit(one[:])
}

// landed is the reader's sink.
func (h *through) landed(done []*wire.Request) {
	for _, r := range done {
		r.Owner.(*slot).send()
	}
}

func (s *slot) send() {
	t, r := s.owner.t, &s.request
	request := nbd.Request{Command: nbd.CmdWrite, Offset: uint64(s.off), Length: uint32(s.length)}
	payload := r.Data.Bytes
	switch {
	case r.Err != nil:
		t.fail(local("reading", s.off, s.length, r.Err))
		s.finish(false)
		return
	case r.Zero && t.remote.canZero():
		request.Command, payload = nbd.CmdWriteZeroes, nil
	case r.Zero:
		clear(payload)
	}
	s.call = client.Call{Request: request, Payload: payload, Done: s.answered}
	s.owner.line.Send(&s.call)
}

func (s *slot) reply(err error) {
	t := s.owner.t
	if err != nil {
		t.fail(remoteError(err))
	} else {
		t.sent(time.Now(), int64(len(s.call.Payload)))
	}
	s.finish(err == nil)
}

// finish ends a slot. A client that still waits is resumed, its change being sent, or
// marked if it was not.
func (s *slot) finish(sent bool) {
	h := s.owner
	if s.claim != nil {
		h.t.ranges.Unlock(s.claim)
		s.claim = nil
	}
	h.reader.Return(s.request.Data)
	s.request.Data = nil

	h.mu.Lock()
	resume := s.resume
	s.resume = nil
	if resume != nil && !sent {
		h.t.bitmap.Mark(s.from, s.size)
	}
	h.free = append(h.free, s)
	if len(h.free) == numSlots && h.empty != nil {
		close(h.empty)
		h.empty = nil
	}
	h.mu.Unlock()
	if resume != nil {
		resume()
	}
}

// watch keeps clients from waiting too long.
func (h *through) watch(ctx context.Context) {
	tick := time.NewTicker(throughTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			// By the next look it would be too late.
			h.expire(now.Add(2*throughTick - throughLimit))
		}
	}
}

// expire marks and resumes those that began before a time, all of them for the zero
// time, which are not late then.
func (h *through) expire(before time.Time) {
	var resume []func()
	h.mu.Lock()
	for i := range h.slots {
		s := &h.slots[i]
		if s.resume == nil || !before.IsZero() && s.began.After(before) {
			continue
		}
		h.t.bitmap.Mark(s.from, s.size)
		resume = append(resume, s.resume)
		s.resume = nil
	}
	h.mu.Unlock()
	if !before.IsZero() {
		h.t.m.late.Add(int64(len(resume)))
	}
	for _, r := range resume {
		r()
	}
}
