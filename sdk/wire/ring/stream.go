// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"fmt"
	"os"
	"sync"
)

// input takes requests off a socket, as many at a time as there are.
type input struct {
	buf  [MaxInFlight * RequestSize]byte
	have int
}

// read appends at least one request to batch. Half a one waits for the next read.
func (in *input) read(from *Socket, batch []Request) ([]Request, error) {
	for in.have < RequestSize {
		n, err := from.Read(in.buf[in.have:], RequestSize)
		in.have += n
		if err != nil && in.have < RequestSize {
			return nil, err
		}
	}
	used := 0
	for ; in.have-used >= RequestSize; used += RequestSize {
		r, reserved := DecodeRequest(in.buf[used:])
		if reserved != 0 {
			return nil, fmt.Errorf("ring: request %#x says %#x where nothing is to be said yet", r.Cookie, reserved)
		}
		batch = append(batch, r)
	}
	in.have = copy(in.buf[:], in.buf[used:in.have])
	return batch, nil
}

// outbox sends completions, as many with one system call as there are. Whoever finds
// somebody sending leaves its own to them.
type outbox struct {
	to *os.File

	mu      sync.Mutex
	queue   []byte // not sent
	spare   []byte // what queue swaps with
	sending bool
}

// put adds a completion. A send has to follow.
func (o *outbox) put(c Completion) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.queue = c.Append(o.queue)
}

// send sends what is there. That it can't is for the reader to find out: the host has
// hung up.
func (o *outbox) send() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.sending {
		return
	}
	o.sending = true
	for len(o.queue) > 0 {
		b := o.queue
		o.queue = o.spare[:0]
		o.mu.Unlock()
		_, _ = o.to.Write(b)
		o.mu.Lock()
		o.spare = b
	}
	o.sending = false
}
