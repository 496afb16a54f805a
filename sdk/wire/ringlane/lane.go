// SPDX-License-Identifier: Apache-2.0

package ringlane

import (
	"context"
	"os"
	"sync"
	"time"

	"github.com/flexnbd/flexnbd/sdk/rangelock"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// Disk carries requests out that a ring did not. Their ranges are locked by whoever
// calls. The error is the request's.
type Disk interface {
	// Call carries a request out as a call to the backend.
	Call(r *wire.Request) error
	// Repeat does so with a request that was under way in a process that is lost: once
	// nothing of that process can land any more, and only if the request may be carried
	// out twice.
	Repeat(p Process, r *wire.Request) error
}

// Process is one process that has the disk open.
type Process interface {
	// OpenRing opens a ring over memory and returns this end of its socket.
	OpenRing(ctx context.Context, memory *os.File, size int) (*os.File, error)
	// Unopened is told why a ring can't be opened. Calls go on.
	Unopened(why error)
	// Broke is told that the process has broken the lane's rules.
	Broke(how error)
	// Ended is told that a ring has ended which this end has not ended: the process is
	// gone, or has hung up.
	Ended()
	// Silent is told that the process does not read its ring.
	Silent()
}

// Lane is the ring lane of one disk. All methods may be called from many goroutines.
type Lane struct {
	ranges *rangelock.Lock
	disk   Disk

	mu      sync.Mutex
	process Process // nil: none
	queues  map[*queue]struct{}
}

// New makes a lane without a process. ranges is the lock that calls to the backend take.
func New(ranges *rangelock.Lock, disk Disk) *Lane {
	return &Lane{ranges: ranges, disk: disk, queues: map[*queue]struct{}{}}
}

// Use makes queues open rings to p, or with nil use the fallback. What is under way on
// other rings is not touched: those end with their process.
func (l *Lane) Use(p Process) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.process = p
	for q := range l.queues {
		q.leave()
		if p != nil {
			q.attach(p)
		}
	}
}

// Finish ends every ring to p, which can do nothing any more, and returns when all that
// it has ever completed has been taken in. Somebody else may still have its end of the
// sockets, a child of it, say; what that writes is not read.
func (l *Lane) Finish(p Process) {
	l.mu.Lock()
	var ends []*line
	for q := range l.queues {
		for r := range q.lines {
			if r.process == p {
				ends = append(ends, r)
			}
		}
	}
	l.mu.Unlock()
	for _, r := range ends {
		r.shut()
		<-r.ended
	}
}

// InUse says whether there is a process.
func (l *Lane) InUse() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.process != nil
}

// Attached says whether a queue, of any lane, has its ring.
func Attached(q wire.Queue) bool {
	r, ok := q.(*queue)
	return ok && r.line.Load() != nil
}

// Watch asks rings on which requests wait for a sign of life every beat, until ctx ends,
// and tells the process of one that gives none for limit.
func (l *Lane) Watch(ctx context.Context, beat, limit time.Duration) {
	ticker := time.NewTicker(beat)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		for _, r := range l.rings() {
			if r.silent(time.Now(), limit) {
				r.process.Silent()
			}
		}
	}
}

func (l *Lane) rings() (rings []*line) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for q := range l.queues {
		if r := q.line.Load(); r != nil {
			rings = append(rings, r)
		}
	}
	return rings
}
