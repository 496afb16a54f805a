// SPDX-License-Identifier: Apache-2.0

package main

import (
	"container/list"
	"context"
	"errors"
	"sync"
)

// cache keeps the blocks that were used last, and fetches those it does not have.
//
// Memory is the point of its design. A block's bytes lie in a buffer that is used
// again for another block, so the collector has nothing to do, and there are only as
// many buffers as fit the cache plus one for each connection. A reader holds a block
// only while it copies from it and never waits meanwhile, so that whoever waits for a
// buffer gets one.
//
//	            somebody wants it         the answer is there
//	(not there) -----------------> flying --------------------> cached
//	     ^                           |                            |
//	     |    failed, or nobody      |    not used for longest    |
//	     +------ wants it any more --+----------------------------+
type cache struct {
	fetch func(ctx context.Context, p []byte, off int64) error
	size  int64 // of the image
	block int64 // bytes of a block; the last one of the image may be shorter

	limit       int           // blocks
	mostAhead   int           // flights that nobody may be waiting for
	connections chan struct{} // one token for each request under way
	buffers     chan []byte   // those that are not in use; nil is one that was not made yet

	ctx     context.Context // of all flights: a block belongs to all who want it
	cancel  context.CancelFunc
	flights sync.WaitGroup

	mu     sync.Mutex
	blocks map[int64]*block // flying and cached ones, by number
	order  list.List        // of cached ones, *block; used last comes first
	ahead  int              // flights that were begun by prefetch
}

// block is one piece of the image. The cache's lock guards all but what ready says.
type block struct {
	number int64
	ready  chan struct{} // closed once data or err is there

	data []byte // before ready the flight's own, after it everybody's to read
	err  error

	landed bool               // the flight is over
	cancel context.CancelFunc // of the flight
	ahead  bool               // is fetched also if nobody waits
	wanted int                // callers that wait for it or copy from it
	place  *list.Element      // in order; nil unless cached
}

var errClosed = errors.New("the disk was closed")

func newCache(s settings, size int64, fetch func(ctx context.Context, p []byte, off int64) error) *cache {
	c := &cache{
		fetch: fetch, size: size, block: s.block,
		limit:       int(s.cache / s.block),
		mostAhead:   s.connections + int(s.readahead),
		connections: make(chan struct{}, s.connections),
		blocks:      map[int64]*block{},
	}
	c.buffers = make(chan []byte, c.limit+s.connections)
	for range cap(c.buffers) {
		c.buffers <- nil
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	c.ctx, c.cancel = ctx, func() { cancel(errClosed) }
	return c
}

// with calls use with a block's bytes once they are there, and meanwhile before it
// waits for them. Neither may block. An end of ctx ends this call, not the fetch that
// others wait for.
func (c *cache) with(ctx context.Context, number int64, meanwhile func(), use func(data []byte)) error {
	b := c.want(number)
	defer c.release(b)
	meanwhile()
	select {
	case <-b.ready:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if b.err != nil {
		return b.err
	}
	use(b.data)
	return nil
}

// prefetch begins to fetch a block that is not there yet, unless there is enough of
// that under way.
func (c *cache) prefetch(number int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.blocks[number] == nil && c.ahead < c.mostAhead {
		c.ahead++
		c.becomeFlying(number).ahead = true
	}
}

// close ends what is under way and waits for it. Nobody calls anything else any more.
func (c *cache) close() {
	c.cancel()
	c.flights.Wait()
}

// want returns a block that is cached or flying. It stays readable until release.
func (c *cache) want(number int64) *block {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.blocks[number]
	switch {
	case b == nil:
		b = c.becomeFlying(number)
	case b.place != nil:
		c.order.MoveToFront(b.place)
	}
	b.wanted++
	return b
}

func (c *cache) release(b *block) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b.wanted--
	if b.wanted == 0 && !b.landed && !b.ahead {
		// Out of the map first: who comes now must not join a flight that was called off.
		c.forget(b)
		b.cancel()
	}
	c.recycle(b)
}

// becomeFlying begins a flight. The lock is held.
func (c *cache) becomeFlying(number int64) *block {
	b := &block{number: number, ready: make(chan struct{})}
	ctx, cancel := context.WithCancel(c.ctx)
	b.cancel = cancel
	c.blocks[number] = b
	c.flights.Go(func() {
		defer cancel()
		data, err := c.fly(ctx, number)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.becomeLanded(b, data, err)
	})
	return b
}

// fly fetches a block, once there is a connection and a buffer for it. The buffer is
// returned with an error, too.
func (c *cache) fly(ctx context.Context, number int64) (data []byte, err error) {
	select {
	case c.connections <- struct{}{}:
		defer func() { <-c.connections }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	select {
	case data = <-c.buffers:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if data == nil {
		data = make([]byte, c.block)
	}
	off := number * c.block
	data = data[:min(c.block, c.size-off)]
	return data, c.fetch(ctx, data, off)
}

// becomeLanded ends a flight, and what it brought becomes cached, unless it was called
// off or failed. The lock is held.
func (c *cache) becomeLanded(b *block, data []byte, err error) {
	b.landed = true
	b.data, b.err = data, err
	if b.ahead {
		c.ahead--
	}
	switch {
	case err != nil:
		c.forget(b) // whoever wants it next tries again
	case c.blocks[b.number] == b:
		b.place = c.order.PushFront(b)
	}
	close(b.ready)
	c.recycle(b)
	for c.order.Len() > c.limit {
		c.evict(c.order.Back().Value.(*block))
	}
}

func (c *cache) evict(b *block) {
	c.order.Remove(b.place)
	b.place = nil
	c.forget(b)
	c.recycle(b)
}

// forget takes a block out of the map, unless another one has its place there.
func (c *cache) forget(b *block) {
	if c.blocks[b.number] == b {
		delete(c.blocks, b.number)
	}
}

// recycle gives the buffer of a block back that is neither flying nor cached nor being
// read. There is always room for it.
func (c *cache) recycle(b *block) {
	if b.landed && b.place == nil && b.wanted == 0 && b.data != nil {
		c.buffers <- b.data[:cap(b.data)]
		b.data = nil
	}
}
