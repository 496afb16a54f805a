// SPDX-License-Identifier: GPL-3.0-or-later

package migrate

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/flexnbd/flexnbd/bench/load"
	"github.com/flexnbd/flexnbd/core/client"
	"github.com/flexnbd/flexnbd/core/nbd"
)

const (
	inFlight  = 8
	blockSize = 4 * kib
	writing   = 100 // writes after which a writer is under way
)

// writer writes blocks at random, eight at a time, to whichever of some addresses lets
// it in. Where the connection ends it connects again, at once and then every other
// millisecond, and repeats what has not been answered.
type writer struct {
	size      int64
	addresses []string
	cancel    context.CancelFunc
	ended     chan struct{} // closed when nothing of it runs any more, and err is set
	err       error

	mu    sync.Mutex
	calls []*write
	seen  Window
	last  time.Time // the newest reply
	moved bool      // the connection is new, and nothing was answered on it
}

// write is one of those in flight. Its time starts once, however often it is sent.
type write struct {
	client.Call
	began    time.Time
	answered bool
}

// Window is what a writer has seen since it was last asked.
type Window struct {
	writes  uint64
	longest time.Duration // from a write's start to its reply
	gap     time.Duration // from the last reply on a connection to the first on the next
	moves   int           // connections that took the place of another
}

// startWriter writes to a disk of some size.
func startWriter(ctx context.Context, size int64, addresses ...string) (*writer, error) {
	ctx, cancel := context.WithCancel(ctx)
	w := &writer{size: size, addresses: addresses, cancel: cancel, ended: make(chan struct{})}
	random := rand.New(rand.NewPCG(1, 2))
	for range inFlight {
		c := &write{answered: true}
		c.Payload = make([]byte, blockSize)
		load.Fill(c.Payload, 0)
		c.Done = func(err error) { w.done(c, random, err) }
		w.calls = append(w.calls, c)
	}
	conn, err := w.connect(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	go w.run(ctx, conn, random)
	return w, nil
}

// run keeps the writes flowing until the context ends.
func (w *writer) run(ctx context.Context, c *client.Client, random *rand.Rand) {
	defer close(w.ended)
	for {
		w.onConnection(ctx, c, random)
		if ctx.Err() != nil || w.err != nil {
			return
		}
		var err error
		if c, err = w.connect(ctx); err != nil {
			if ctx.Err() == nil {
				w.err = err
			}
			return
		}
		w.mu.Lock()
		w.moved = true
		w.mu.Unlock()
	}
}

// onConnection writes until the connection or the context ends.
func (w *writer) onConnection(ctx context.Context, c *client.Client, random *rand.Rand) {
	p := c.Pipeline(client.PipelineOptions{})
	w.mu.Lock()
	var batch []*client.Call
	for _, call := range w.calls {
		if call.answered {
			w.choose(call, random)
		}
		call.Owner = p
		batch = append(batch, &call.Call)
	}
	w.mu.Unlock()
	p.Send(batch...)
	select {
	case <-p.Broken():
	case <-ctx.Done():
	}
	_ = p.Close() // whatever was in flight has been told
}

// choose makes the call a new write. The caller holds mu.
func (w *writer) choose(c *write, random *rand.Rand) {
	offset := uint64(random.Int64N(w.size/blockSize)) * blockSize
	c.Request = nbd.Request{Command: nbd.CmdWrite, Offset: offset, Length: blockSize}
	c.began, c.answered = time.Now(), false
}

// done takes a reply and sends the next write. A write that has no reply because the
// connection broke waits for the next one.
func (w *writer) done(c *write, random *rand.Rand, err error) {
	now := time.Now()
	w.mu.Lock()
	var refused nbd.Errno
	switch {
	case errors.As(err, &refused):
		w.err = fmt.Errorf("a write at offset %d: %w", c.Request.Offset, err)
		w.mu.Unlock()
		w.cancel()
		return
	case err != nil:
		w.mu.Unlock()
		return
	}
	w.seen.add(now.Sub(c.began))
	if w.moved {
		w.moved = false
		w.seen.moves++
		w.seen.gap = max(w.seen.gap, now.Sub(w.last))
	}
	w.last = now
	w.choose(c, random)
	w.mu.Unlock()
	c.Owner.(*client.Pipeline).Send(&c.Call)
}

func (s *Window) add(took time.Duration) {
	s.writes++
	s.longest = max(s.longest, took)
}

// connect tries the addresses in turn until one lets it in.
func (w *writer) connect(ctx context.Context) (*client.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		var errs []error
		for _, address := range w.addresses {
			c, err := connect(ctx, address)
			if err == nil {
				return c, nil
			}
			errs = append(errs, err)
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(append(errs, context.Cause(ctx))...)
		case <-time.After(retry): // between attempts; nothing tells when
		}
	}
}

// window returns what was seen since the last call.
func (w *writer) window() Window {
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := w.seen
	w.seen = Window{}
	return seen
}

// until waits until so many writes have been answered in this window.
func (w *writer) until(ctx context.Context, writes uint64) error {
	return w.wait(ctx, func(seen Window) bool { return seen.writes >= writes })
}

// untilMoved waits until another server has answered, in this window.
func (w *writer) untilMoved(ctx context.Context) error {
	return w.wait(ctx, func(seen Window) bool { return seen.moves > 0 })
}

// settle waits until everything is answered that was in flight when it was called.
func (w *writer) settle(ctx context.Context) error {
	now := time.Now()
	return w.wait(ctx, func(Window) bool {
		return !slices.ContainsFunc(w.calls, func(c *write) bool { return c.began.Before(now) })
	})
}

// wait waits until the window is as it is wanted.
func (w *writer) wait(ctx context.Context, enough func(Window) bool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(retry)
	defer tick.Stop()
	for {
		w.mu.Lock()
		done := enough(w.seen) // with mu held
		w.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-tick.C:
		case <-w.ended:
			return errors.Join(errors.New("the writer has ended"), w.err)
		case <-ctx.Done():
			return fmt.Errorf("waiting for replies to writes: %w", context.Cause(ctx))
		}
	}
}

// stop ends it and returns what went wrong.
func (w *writer) stop() error {
	w.cancel()
	<-w.ended
	return w.err
}
