// SPDX-License-Identifier: Apache-2.0

package filelane

import (
	"context"
	"errors"
	"io"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/sdk/rangelock"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// maxSlow is how many requests of one disk, on all connections, are at its device
// at a time. Each takes a thread; more would not make a device faster.
const maxSlow = 64

// delayed is a request that may take its time. Once started it waits for nothing but
// the device: it is inside the loan, and a write has its claim.
type delayed struct {
	queue   *queue
	file    *file
	request *wire.Request
	done    int              // bytes carried out already
	claim   *rangelock.Claim // a write's
}

// later sees to it that a request is carried out that may take its time.
func (q *queue) later(f *file, r *wire.Request, done int) {
	q.delayed.Add(1)
	q.slow.Add(1)
	d := &delayed{queue: q, request: r, done: done}
	if r.Op == wire.OpWrite {
		if d.claim = q.lane.ranges.TryLock(r.Offset, r.Offset+r.Length, true); d.claim == nil {
			go d.await()
			return
		}
	}
	f.lent.Share()
	d.file = f
	q.lane.start(d)
}

// await waits for a write's turn, outside the loan: what is under way in its range
// may be a call that has lost its process. It ends in the next one, and that begins
// to serve only when nobody is inside the loan of the one before.
func (d *delayed) await() {
	q, r := d.queue, d.request
	d.claim, _ = q.lane.ranges.Lock(context.Background(), r.Offset, r.Offset+r.Length, true)
	if d.file = q.lane.enter(); d.file != nil {
		q.lane.start(d)
		return
	}
	q.lane.ranges.Unlock(d.claim)
	q.fallback.Submit([]*wire.Request{r})
	q.slow.Add(-1)
	q.delayed.Done()
}

// start starts a goroutine for d, or has one that is at work see to it.
func (l *Lane) start(d *delayed) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.slow == maxSlow {
		l.waiting = append(l.waiting, d)
		return
	}
	l.slow++
	go l.work(d)
}

// work carries out d, then those that wait for a goroutine.
func (l *Lane) work(d *delayed) {
	for d != nil {
		d.run()
		next := l.next()
		d.queue.delayed.Done()
		d = next
	}
}

// next returns what the goroutine that asks is to do next, or nil for its end.
func (l *Lane) next() *delayed {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting) == 0 {
		l.waiting = nil // so that a burst's memory is not kept
		l.slow--
		return nil
	}
	d := l.waiting[0]
	l.waiting[0] = nil
	l.waiting = l.waiting[1:]
	return d
}

// run carries out the request on the descriptor and completes it, or leaves it to
// the fallback if that fails.
func (d *delayed) run() {
	r, move := d.request, d.file.pread
	if r.Op == wire.OpWrite {
		move = d.file.pwrite
	}
	begin := time.Now()
	err := move.all(d.file.fd, r.Data.Bytes[d.done:], r.Offset+int64(d.done))
	if d.claim != nil {
		d.queue.lane.stall.note(begin)
		d.queue.lane.ranges.Unlock(d.claim)
	}
	d.file.lent.Leave()
	d.queue.slow.Add(-1)
	one := [1]*wire.Request{r}
	if err != nil {
		d.queue.fallback.Submit(one[:])
		return
	}
	d.queue.sink(one[:])
}

// all moves all of p or returns an error.
func (move transfer) all(fd int, p []byte, off int64) error {
	for len(p) > 0 {
		n, err := move(fd, p, off)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return err
		case n == 0:
			return io.ErrUnexpectedEOF
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}
