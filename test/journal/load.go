// SPDX-License-Identifier: GPL-3.0-or-later

package journal

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// Load is some clients that read and write a Disk wherever it is served.
//
//	made --Start--> running <--Pause, Resume--> paused --Stop--> stopped
//
// Stop has to be called once it was started, whatever becomes of it.
type Load struct {
	disk    *Disk
	options Options
	first   int // number of the first connection
	pace    pace

	stopping chan struct{}   // closed by Stop: no new requests
	cut      context.Context // ended by Stop: requests in flight are given up
	giveUp   context.CancelCauseFunc
	running  sync.WaitGroup

	mu      sync.Mutex
	started bool
	stopped bool
	resumed chan struct{} // not nil while paused; closed by Resume
	busy    int           // connections with a request
	alive   int           // connections that have not ended
	counts  map[string]uint64
	reads   uint64
	writes  uint64
	zeroes  uint64
	breaks  []Break
	failed  []error
	changed chan struct{} // not nil while somebody waits; closed at the next change
}

// Break is a connection that ended before this side wanted it to: closed or reset by
// the server, or given up after Options.RequestTimeout.
type Break struct {
	Connection int // its number, as errors name it
	Server     Server
	At         time.Time // when it was noticed: at the next request, if there was none
	Err        error
}

func (b Break) String() string {
	return fmt.Sprintf("connection %d to %s: %v", b.Connection, b.Server.Address, b.Err)
}

// NewLoad makes a Load that does nothing yet. The error is that of the options.
func NewLoad(d *Disk, o Options) (*Load, error) {
	o, err := o.filled(d.Size())
	if err != nil {
		return nil, err
	}
	l := &Load{
		disk: d, options: o, first: d.connections(o.Connections), alive: o.Connections,
		pace: pace{rate: o.BytesPerSecond}, stopping: make(chan struct{}), counts: map[string]uint64{},
	}
	l.cut, l.giveUp = context.WithCancelCause(context.Background())
	return l, nil
}

// Start starts the clients. A Load starts once.
func (l *Load) Start() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.started || l.stopped {
		panic("journal: a Load is started twice, or after Stop")
	}
	l.started = true
	for i := range l.options.Connections {
		c := &connection{
			load: l, number: l.first + i, picker: newPicker(l.options, l.disk.Size(), i),
			buf: make([]byte, nbd.RequestSize+l.options.Largest),
		}
		l.running.Go(c.run)
	}
}

// errStopped is why requests are given up at the end.
var errStopped = errors.New("the load has been stopped")

// Stop ends the load: no new requests, those without an answer are repeated until
// they have one, or until ctx ends, and then are given up. It returns when all
// connections are closed. The error holds what the servers refused and who could not
// find a server; giving up is none. Stop may be called again.
func (l *Load) Stop(ctx context.Context) error {
	l.mu.Lock()
	if !l.stopped {
		l.stopped = true
		close(l.stopping)
	}
	l.mu.Unlock()
	giveUp := context.AfterFunc(ctx, func() { l.giveUp(errStopped) })
	l.running.Wait()
	giveUp()
	l.giveUp(errStopped)
	return l.Err()
}

// Pause ends all requests but those in flight, and returns when these are answered.
// When ctx ends before, it returns its error, and the load is paused all the same.
func (l *Load) Pause(ctx context.Context) error {
	l.mu.Lock()
	if l.resumed == nil {
		l.resumed = make(chan struct{})
	}
	l.mu.Unlock()
	return l.await(ctx, func() bool { return l.busy == 0 }, false)
}

// Resume ends a pause.
func (l *Load) Resume() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.resumed != nil {
		close(l.resumed)
		l.resumed = nil
	}
}

// Err returns what has gone wrong so far: requests that a server refused, a server
// with another disk, no server for too long. A connection to which that happens makes
// no more requests.
func (l *Load) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Join(l.failed...)
}

// Acknowledged returns how many requests have been answered, reads included.
func (l *Load) Acknowledged() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.total()
}

// AnsweredBy returns how many of them the server at this address has answered.
func (l *Load) AnsweredBy(address string) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.counts[address]
}

// Changes returns how many writes and zeroings have been acknowledged.
func (l *Load) Changes() (writes, zeroes uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.writes, l.zeroes
}

// AwaitAcknowledged waits until Acknowledged is at least n. The error is that of ctx,
// or the load's own when it has failed, or an error when it stopped before.
func (l *Load) AwaitAcknowledged(ctx context.Context, n uint64) error {
	err := l.await(ctx, func() bool { return l.total() >= n }, true)
	if err != nil {
		return fmt.Errorf("journal: waiting for %d answers, having %d: %w", n, l.Acknowledged(), err)
	}
	return nil
}

// AwaitMore waits until n more requests have been answered.
func (l *Load) AwaitMore(ctx context.Context, n uint64) error {
	return l.AwaitAcknowledged(ctx, l.Acknowledged()+n)
}

// AwaitAnsweredBy waits until AnsweredBy(address) is at least n, as
// AwaitAcknowledged does.
func (l *Load) AwaitAnsweredBy(ctx context.Context, address string, n uint64) error {
	err := l.await(ctx, func() bool { return l.counts[address] >= n }, true)
	if err != nil {
		return fmt.Errorf("journal: waiting for %d answers from %s, having %d: %w", n, address, l.AnsweredBy(address), err)
	}
	return nil
}

// Breaks returns the connections that have broken, in order.
func (l *Load) Breaks() []Break {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]Break(nil), l.breaks...)
}

// BreaksBefore returns those that were noticed before t. For what happens while a
// load is paused or throttled, see Break.At.
func (l *Load) BreaksBefore(t time.Time) []Break {
	var before []Break
	for _, b := range l.Breaks() {
		if b.At.Before(t) {
			before = append(before, b)
		}
	}
	return before
}

// Pauses returns how long this load's answered requests waited, those that were under
// way at some time between from and to.
func (l *Load) Pauses(from, to time.Time) Pauses {
	return l.disk.pauses(l.first, l.options.Connections, from, to)
}

// total needs mu.
func (l *Load) total() uint64 { return l.reads + l.writes + l.zeroes }

// await waits until a condition, which is looked at under mu, holds. If it can only
// come true while connections make requests, needsLoad says so.
func (l *Load) await(ctx context.Context, holds func() bool, needsLoad bool) error {
	for {
		l.mu.Lock()
		switch {
		case holds():
			l.mu.Unlock()
			return nil
		case needsLoad && (len(l.failed) > 0 || l.alive == 0):
			err := errors.Join(append([]error{errors.New("the load has ended")}, l.failed...)...)
			l.mu.Unlock()
			return err
		}
		if l.changed == nil {
			l.changed = make(chan struct{})
		}
		changed := l.changed
		l.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// change wakes those who wait. It needs mu.
func (l *Load) change() {
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

// enter lets a connection make a request, after a pause if there is one, and returns
// false once the load stops.
func (l *Load) enter() bool {
	for {
		l.mu.Lock()
		resumed := l.resumed
		if l.stopped {
			l.mu.Unlock()
			return false
		}
		if resumed == nil {
			l.busy++
			l.mu.Unlock()
			return true
		}
		l.mu.Unlock()
		select {
		case <-resumed:
		case <-l.stopping:
		}
	}
}

func (l *Load) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.busy--
	l.change()
}

func (l *Load) answered(server string, k kind) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts[server]++
	switch k {
	case read:
		l.reads++
	case write:
		l.writes++
	case zeroes:
		l.zeroes++
	}
	l.change()
}

func (l *Load) broke(connection int, s Server, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.breaks = append(l.breaks, Break{connection, s, time.Now(), err})
	l.change()
}

func (l *Load) fail(connection int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed = append(l.failed, fmt.Errorf("journal: connection %d: %w", connection, err))
	l.change()
}

// ended is a connection's last word.
func (l *Load) ended() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.alive--
	l.change()
}
