// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"

	"github.com/flexnbd/flexnbd/sdk/store"
)

// Queue is how one client connection talks to a disk. A connection has a queue
// of its own, so that queues share no lock on the hot path.
//
// The order of a request's life: Borrow payload memory, fill it (a write),
// Submit, see the request again in the queue's [Sink], use the payload (a
// read), Return it. Requests in flight together may complete in any order, also
// when they overlap.
//
// Submit, Borrow and Return may be called from many goroutines.
type Queue interface {
	// Borrow returns payload memory of n bytes, 1 to [MaxPayload], waiting
	// while the queue's budget is used up. Its content is undefined. The
	// error is the context's.
	Borrow(ctx context.Context, n int) (*Payload, error)

	// TryBorrow is Borrow that returns nil where Borrow would wait. A caller
	// that holds requests back to submit them together has to submit them
	// before it waits, or it may wait for itself.
	TryBorrow(n int) *Payload

	// Return gives payload memory back. The payload must not be in flight.
	Return(*Payload)

	// Submit starts requests. They belong to the queue until the sink
	// receives them, each exactly once, which may be before Submit returns
	// and on any goroutine. Submit waits for no I/O that it could leave to
	// someone else, but for a moment, well below a millisecond, where nothing
	// else is under way on the queue.
	Submit(batch []*Request)

	// Close waits until every request has been completed, then frees the
	// queue. No Submit may follow or be under way.
	Close() error
}

// Queuer is a Store with a queue of its own, faster than the one that NewQueue
// makes of any Store.
type Queuer interface {
	// NewQueue returns a queue for one connection. ctx is the context of every
	// call to the Store.
	NewQueue(ctx context.Context, sink Sink) Queue
}

// Sink receives completed requests, several at once where they completed
// together. It must not block and must not keep the slice. Sinks of one queue
// may run at the same time on several goroutines.
type Sink func([]*Request)

// Op is what a request does.
type Op uint8

// The operations that pass through a queue.
const (
	OpRead  Op = iota + 1 // fill Payload
	OpWrite               // store Payload; flags: FUA
	OpZero                // punch a hole; flags: those of store.PunchHole
	OpFlush               // make durable what completed before
)

// String returns the operation's name in lower case.
func (o Op) String() string {
	switch o {
	case OpRead:
		return "read"
	case OpWrite:
		return "write"
	case OpZero:
		return "zero"
	case OpFlush:
		return "flush"
	}
	return "invalid"
}

// Request is one operation on a disk. Whoever submits it sets the first group
// of fields; the queue sets Err before the sink receives it.
type Request struct {
	Op     Op
	Flags  store.Flags
	Offset int64
	Length int64    // equal to len(Payload.Bytes) where there is a payload
	Data   *Payload // reads and writes; memory borrowed from the same queue, or part of it

	// MayLend: whoever submits this read can send its bytes from a descriptor.
	MayLend bool

	// Owner is the submitter's own. The queue passes it on untouched.
	Owner any

	// Err is nil when the operation succeeded.
	Err error

	// Zero is set on a completed read whose whole range is known to read as
	// zeroes; Data was then left as it was.
	Zero bool

	// Lent is set on a completed read with MayLend whose bytes are to be taken
	// from that descriptor, at Offset; what Data holds is undefined. They are in
	// the page cache, or were a moment ago. Whoever submitted the request
	// leaves Lent when it has them, soon: a plugin may be waiting to get it back.
	Lent *Lent
}

// Payload is memory for the bytes of one read or write.
type Payload struct {
	Bytes []byte
}

// MaxPayload is the most that one request may carry, in bytes. Whoever has more
// to move splits it.
const MaxPayload = 1 << 20
