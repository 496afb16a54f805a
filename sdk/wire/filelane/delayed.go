// SPDX-License-Identifier: Apache-2.0

package filelane

import (
	"context"
	"errors"
	"io"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/sdk/wire"
)

// maxSlow is how many requests of one disk, on all connections, are at its device
// at a time. Each takes a thread; more would not make a device faster.
const maxSlow = 64

// delayed is a request that may take its time. It is inside the loan.
type delayed struct {
	queue   *queue
	file    *file
	request *wire.Request
	done    int // bytes carried out already
}

// later starts a goroutine for the request, or has one that is at work see to it.
func (q *queue) later(f *file, r *wire.Request, done int) {
	f.lent.Share()
	q.delayed.Add(1)
	d := &delayed{queue: q, file: f, request: r, done: done}
	l := q.lane
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
	r, err := d.request, error(nil)
	if r.Op == wire.OpRead {
		err = transfer(pread, d.file.fd, r.Data.Bytes[d.done:], r.Offset+int64(d.done))
	} else {
		err = d.write()
	}
	d.file.lent.Leave()
	one := [1]*wire.Request{r}
	if err != nil {
		d.queue.fallback.Submit(one[:])
		return
	}
	d.queue.sink(one[:])
}

// write writes what is left, when no call to the backend is under way there.
func (d *delayed) write() error {
	r, ranges := d.request, d.queue.lane.ranges
	claim, err := ranges.Lock(context.Background(), r.Offset, r.Offset+r.Length, true)
	if err != nil {
		return err
	}
	defer ranges.Unlock(claim)
	return transfer(pwrite, d.file.fd, r.Data.Bytes[d.done:], r.Offset+int64(d.done))
}

// transfer moves all of p or returns an error.
func transfer(move func(int, []byte, int64) (int, error), fd int, p []byte, off int64) error {
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
