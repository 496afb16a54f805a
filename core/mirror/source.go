// SPDX-License-Identifier: GPL-3.0-or-later

package mirror

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/flexnbd/flexnbd/core/export"
	"github.com/flexnbd/flexnbd/core/owner"
	"github.com/flexnbd/flexnbd/sdk/transport"
)

// MinSize is the smallest disk that migrates, in bytes.
const MinSize = 4096

// DefaultMaxPause is how long clients may be held, unless an order says otherwise.
const DefaultMaxPause = 500 * time.Millisecond

// Answers to Break and SetMaxSpeed.
var (
	ErrNotMirroring = errors.New("not mirroring")
	ErrCompleted    = errors.New("mirror completed")
)

// SourceConfig is what a source needs of its server. All of it outlives the Source.
type SourceConfig struct {
	// Export is the disk.
	Export *export.Export
	// Records are those of the disk. nil: none can be kept, RecordsError says why,
	// and only rehearsals start.
	Records      *owner.Records
	RecordsError error

	// Dial connects to a destination, from an address unless that is the zero one.
	Dial func(ctx context.Context, to, from transport.Address) (net.Conn, error)
	// Leave closes the listening socket. When it returns nobody can connect any
	// more, and the address is free.
	Leave func(ctx context.Context) error
	// Cut ends every client connection, idle ones too. The gate is closed by then.
	Cut func()
	// Unlink durably removes the image. nil: it can't be removed.
	Unlink func(ctx context.Context) error

	Log hclog.Logger
}

// Order is what the operator wants.
type Order struct {
	To   transport.Address
	Bind transport.Address // the local address; zero: any

	// Unlink removes the image once the destination has acknowledged that it has
	// the disk. One that acknowledges nothing (Unconfirmed, flexnbd 0.x) is refused.
	Unlink bool
	// Rehearse does all but the hand-over, see [Rehearsed].
	Rehearse bool
	// Unconfirmed allows a destination that can't say that it has taken over.
	Unconfirmed bool

	// MaxSpeed is the cap on bytes sent, in bytes per second; 0: none.
	MaxSpeed int64
	// MaxPause is how long clients may be held before the disk is given away. 0:
	// DefaultMaxPause.
	MaxPause time.Duration

	// NoWriteThrough keeps what clients write from being sent at once when the copy
	// does not catch up; then it may never. It is there to show that.
	NoWriteThrough bool
}

// Source gives a disk away. Its methods may be called from many goroutines.
type Source struct {
	config SourceConfig
	id     owner.ID // of this process, for destinations

	patience    patience
	connections int // of one attempt

	ctx  context.Context // ends with Close
	stop context.CancelFunc

	departed chan struct{}
	fatal    chan error

	mu      sync.Mutex // guards the rest; taken before mirroring.mu
	closed  bool
	current *mirroring // the latest; nil: none yet
}

// NewSource makes a source that does nothing yet. Close has to be called.
func NewSource(config SourceConfig) *Source {
	s := &Source{config: config, id: owner.NewID(), patience: defaultPatience, connections: maxConnections, departed: make(chan struct{}), fatal: make(chan error, 1)}
	s.ctx, s.stop = context.WithCancel(context.Background())
	if s.config.Log == nil {
		s.config.Log = hclog.NewNullLogger()
	}
	return s
}

// Start begins a migration, which goes on by itself, over failures, until the disk is
// given away or Break stops it. Start returns nil once the destination has answered
// and is one for this disk, after at most some 25 seconds. The error is a [*Reason];
// nothing has begun then. ctx bounds Start alone.
func (s *Source) Start(ctx context.Context, order Order) error {
	if order.MaxPause == 0 {
		order.MaxPause = DefaultMaxPause
	}
	if reason := s.refuses(&order); reason != nil {
		return reason
	}
	m, reason := s.enter(order)
	if reason != nil {
		return reason
	}
	reached, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(m.ctx, func() { cancel(errStopped) })()

	id := owner.NewID()
	r, err := m.reach(reached, id)
	if err != nil && m.ctx.Err() != nil {
		err = stoppedReason
	}
	if err != nil {
		m.log.Warn("no migration was started", "destination", order.To, "error", err)
		m.finish(Outcome{Kind: Stopped}, err)
		s.leave(m)
		return err
	}
	s.config.Log.Info("migration started", "destination", order.To, "id", id)
	go m.run(r, id)
	return nil
}

// refuses says what is wrong with an order before anybody is asked.
func (s *Source) refuses(order *Order) error {
	switch size := s.config.Export.Size(); {
	case size < MinSize:
		return &Reason{WordsTooSmall, fmt.Errorf("it has %d bytes, and the least is %d", size, MinSize)}
	case order.MaxSpeed < 0 || order.MaxPause < 0:
		return &Reason{WordsOrder, errors.New("neither the speed nor the pause can be negative")}
	case order.Unlink && s.config.Unlink == nil:
		return &Reason{WordsOrder, errors.New("--unlink is for images that are files")}
	case order.Unlink && order.Unconfirmed:
		return &Reason{WordsOrder, errors.New("--unlink would remove the only copy that is known to be whole: with --unconfirmed nobody confirms that there is another")}
	case s.config.Export.ReadOnly() && !order.Rehearse:
		// Somebody else may own it and write to it.
		return &Reason{WordsOrder, errors.New("this server serves the disk read-only, so that it is not its to give away")}
	case order.Rehearse:
		return nil
	case s.config.Records == nil:
		return &Reason{WordsRecords, s.config.RecordsError}
	}
	if err := s.config.Records.Check(); err != nil {
		return &Reason{WordsRecords, err}
	}
	if err := untold(s.config.Export.PendingLoss()); err != nil {
		return &Reason{WordsLoss, err}
	}
	return nil
}

// enter makes a migration the current one.
func (s *Source) enter(order Order) (*mirroring, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return nil, &Reason{Words: WordsStopping}
	case s.current != nil && s.current.hasDeparted():
		return nil, &Reason{WordsStopping, errors.New("the disk has been given away")}
	case s.current != nil && !s.current.isOver():
		return nil, &Reason{Words: WordsRunning}
	}
	s.current = newMirroring(s, order)
	return s.current, nil
}

// leave forgets a migration that never began.
func (s *Source) leave(m *mirroring) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == m {
		s.current = nil
	}
}

func (s *Source) latest() *mirroring {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current
}

// Break stops the migration. After nil the gate is open and nothing of it runs.
// ErrCompleted: the disk has been given away; what is left to do goes on.
// ErrNotMirroring: there is none. When ctx ends Break returns its error; the clients
// have been let go on by then, and the rest ends by itself.
func (s *Source) Break(ctx context.Context) error {
	m := s.latest()
	if m == nil {
		return ErrNotMirroring
	}
	return m.breakOff(ctx)
}

// SetMaxSpeed changes the cap, in bytes per second; 0: none. ErrNotMirroring: there is
// no migration.
func (s *Source) SetMaxSpeed(bytesPerSecond int64) error {
	m := s.latest()
	switch {
	case m == nil || m.isOver():
		return ErrNotMirroring
	case bytesPerSecond < 0:
		return fmt.Errorf("a speed of %d bytes per second", bytesPerSecond)
	}
	m.limit.set(bytesPerSecond)
	return nil
}

// Wait waits until the migration that runs, or ran last, has ended. The error is ctx's,
// ErrNotMirroring, or wraps owner.ErrUncertain: see Fatal.
func (s *Source) Wait(ctx context.Context) (Outcome, error) {
	m := s.latest()
	if m == nil {
		return Outcome{}, ErrNotMirroring
	}
	select {
	case <-m.done:
		return m.result, m.err
	case <-ctx.Done():
		if m.isOver() { // whoever stops the server at the migration's end is told how that was
			return m.result, m.err
		}
		return Outcome{}, ctx.Err()
	}
}

// Departed is closed when the disk has been given away, the destination has
// acknowledged that, as far as it can, and what was asked for besides is done: the
// process can exit with status 0.
func (s *Source) Departed() <-chan struct{} { return s.departed }

// Fatal receives the one error after which nobody knows who has the disk until the
// records are looked at anew: the gate stays held, and the process has to exit with
// status 1.
func (s *Source) Fatal() <-chan error { return s.fatal }

// Resume finishes a migration whose record was found at the start: COMMIT is repeated
// until it is acknowledged, and Departed is closed in the end. ctx ends it before, and
// so does Close. Nobody may be able to reach the disk: there is no gate that Resume
// could close, since listen goes on with it.
//
// d is what the record says. A caller that goes on with the image, as listen does,
// takes d.Unlink off: then neither the image nor its record is removed.
func (s *Source) Resume(ctx context.Context, d owner.Departure) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	if s.current != nil {
		panic("mirror: Resume after Start")
	}
	order := Order{Bind: transport.Address(d.From), Unlink: d.Unlink, MaxPause: DefaultMaxPause}
	if len(d.To) > 0 {
		order.To = transport.Address(d.To[0])
	}
	m := newMirroring(s, order)
	m.becomeDeparted()
	s.current = m
	go m.resume(ctx, d)
}

// Close ends everything, as Break does if the disk has not been given away. If it has,
// no COMMIT is repeated any more; the record stays, and the next start goes on.
func (s *Source) Close() {
	s.mu.Lock()
	s.closed = true
	m := s.current
	s.mu.Unlock()
	s.stop()
	if m != nil {
		<-m.done
	}
}
