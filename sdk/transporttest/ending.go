// SPDX-License-Identifier: Apache-2.0

package transporttest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"time"

	"github.com/flexnbd/flexnbd/sdk/transport"
)

const (
	// waiters is how many Accepts wait at once.
	waiters = 4

	// headStart is how long calls get to reach the point where they wait,
	// which nobody can see from outside. The clauses hold however much of
	// it they use; with it, they try what they are for.
	headStart = 20 * time.Millisecond

	// races is how often a connection and the end of a context meet.
	races = 100
)

// connectionsOutliveListener: accepted connections live on after Close.
func connectionsOutliveListener(ctx context.Context, t *trial) error {
	p, err := t.connect(ctx, transport.Address{})
	if err != nil {
		return err
	}
	if err := t.close(p.listener); err != nil {
		return err
	}
	if err := t.exchange(p); err != nil {
		return fmt.Errorf("after the listener's Close: %w", err)
	}
	return nil
}

// closeEndsAccepts: Close ends the Accepts that wait with net.ErrClosed, and a
// later Accept fails likewise.
func closeEndsAccepts(ctx context.Context, t *trial) error {
	l, err := t.listen(ctx, t.Listen)
	if err != nil {
		return err
	}
	var waiting []*call[transport.Conn]
	for range waiters {
		waiting = append(waiting, t.accept(ctx, l))
	}
	pause(ctx, headStart)
	if err := t.close(l); err != nil {
		return err
	}
	for _, c := range append(waiting, t.accept(ctx, l)) {
		if _, err := c.wait(); !errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("after Close, an Accept must fail with net.ErrClosed; it returns: %v", err)
		}
	}
	return nil
}

// closedAddressCanBeUsedAgain: a listener can follow another at the same
// address, even while connections of the first one live, as it does when a
// server is restarted.
func closedAddressCanBeUsedAgain(ctx context.Context, t *trial) error {
	var failure error
	for range attempts {
		old, err := t.connect(ctx, transport.Address{})
		if err != nil {
			return err
		}
		at := old.listener.Address()
		if err := t.close(old.listener); err != nil {
			return err
		}
		l, err := t.listen(ctx, at)
		if err != nil {
			failure = fmt.Errorf("after Close of the first listener: %w", err)
			continue
		}
		p, err := t.connectTo(ctx, l, transport.Address{})
		if err != nil {
			return err
		}
		return errors.Join(p.greet(1), old.greet(2))
	}
	return failure
}

// contextEndsAccept: a context that ends ends its own Accept, and no other.
func contextEndsAccept(ctx context.Context, t *trial) error {
	l, err := t.listen(ctx, t.Listen)
	if err != nil {
		return err
	}
	over, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := t.accept(over, l).wait(); !errors.Is(err, context.Canceled) {
		return fmt.Errorf("an Accept whose context has ended must fail with context.Canceled; it returns: %v", err)
	}

	cancelled, cancel := context.WithCancel(ctx)
	defer cancel()
	timed, cancelTimed := context.WithTimeout(ctx, 2*headStart)
	defer cancelTimed()
	a, b, staying := t.accept(cancelled, l), t.accept(timed, l), t.accept(ctx, l)
	pause(ctx, headStart)
	cancel()
	if _, err := a.wait(); !errors.Is(err, context.Canceled) {
		return fmt.Errorf("a waiting Accept that is cancelled must fail with context.Canceled; it returns: %v", err)
	}
	if _, err := b.wait(); !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("a waiting Accept whose time is up must fail with context.DeadlineExceeded; it returns: %v", err)
	}
	if staying.isDone() {
		_, err := staying.wait()
		return fmt.Errorf("an Accept ended with other Accepts' contexts: %v", err)
	}
	dialled, err := t.dial(ctx, l.Address(), transport.Address{}).wait()
	if err != nil {
		return err
	}
	accepted, err := staying.wait()
	if err != nil {
		return fmt.Errorf("after other Accepts were cancelled: %w", err)
	}
	return pair{listener: l, dialled: dialled, accepted: accepted}.greet(1)
}

// contextEndsDial: a Dial ends when its context does.
func contextEndsDial(ctx context.Context, t *trial) error {
	l, err := t.listen(ctx, t.Listen)
	if err != nil {
		return err
	}
	over, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := t.dial(over, l.Address(), transport.Address{}).wait(); !errors.Is(err, context.Canceled) {
		return fmt.Errorf("a Dial whose context has ended must fail with context.Canceled; it returns: %v", err)
	}
	if t.Unresponsive == (transport.Address{}) {
		return nil
	}
	cancelled, cancel := context.WithCancel(ctx)
	defer cancel()
	timed, cancelTimed := context.WithTimeout(ctx, 2*headStart)
	defer cancelTimed()
	a := t.dial(cancelled, t.Unresponsive, transport.Address{})
	b := t.dial(timed, t.Unresponsive, transport.Address{})
	pause(ctx, headStart)
	cancel()
	if _, err := a.wait(); !errors.Is(err, context.Canceled) {
		return fmt.Errorf("a Dial under way that is cancelled must fail with context.Canceled; it returns: %v", err)
	}
	if _, err := b.wait(); !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("a Dial under way whose time is up must fail with context.DeadlineExceeded; it returns: %v", err)
	}
	return nil
}

// cancelledAcceptLosesNoConnection: a connection goes to an Accept that is
// there, also when another one's context ends in the same moment.
func cancelledAcceptLosesNoConnection(ctx context.Context, t *trial) error {
	l, err := t.listen(ctx, t.Listen)
	if err != nil {
		return err
	}
	if err := t.cancelBeforeDial(ctx, l); err != nil {
		return err
	}
	for i := range races {
		if err := t.raceCancel(ctx, l, i); err != nil {
			return fmt.Errorf("race %d of an Accept's cancellation and a connection: %w", i, err)
		}
	}
	return nil
}

// cancelBeforeDial leaves no Accept behind that could take a connection.
func (t *trial) cancelBeforeDial(ctx context.Context, l transport.Listener) error {
	soon, cancel := context.WithCancel(ctx)
	defer cancel()
	var waiting []*call[transport.Conn]
	for range waiters {
		waiting = append(waiting, t.accept(soon, l))
	}
	pause(ctx, headStart)
	cancel()
	for _, c := range waiting {
		if _, err := c.wait(); !errors.Is(err, context.Canceled) {
			return fmt.Errorf("cancelled: %w", err)
		}
	}
	p, err := t.connectTo(ctx, l, transport.Address{})
	if err != nil {
		return fmt.Errorf("after other Accepts were cancelled: %w", err)
	}
	return p.greet(1)
}

// raceCancel cancels an Accept while a connection arrives: in even rounds
// while it is being made, in odd ones when it may be on its way to the Accept.
func (t *trial) raceCancel(ctx context.Context, l transport.Listener, round int) error {
	soon, cancel := context.WithCancel(ctx)
	defer cancel()
	accepting := t.accept(soon, l)
	dialling := t.dial(ctx, l.Address(), transport.Address{})
	if round%2 == 1 {
		if _, err := dialling.wait(); err != nil {
			return err
		}
	}
	for range round {
		runtime.Gosched()
	}
	cancel()
	accepted, err := accepting.wait()
	if errors.Is(err, context.Canceled) {
		accepted, err = t.accept(ctx, l).wait()
	}
	if err != nil {
		return err
	}
	dialled, err := dialling.wait()
	if err != nil {
		return err
	}
	return pair{listener: l, dialled: dialled, accepted: accepted}.greet(uint64(round))
}

// brokenConnectionDoesNotFailAccept: clients that are gone before they were
// accepted do no harm. Accept may return their sockets, which then read as
// broken, or pass them over.
func brokenConnectionDoesNotFailAccept(ctx context.Context, t *trial) error {
	l, err := t.listen(ctx, t.Listen)
	if err != nil {
		return err
	}
	for range waiters {
		if err := t.dialAndBreak(ctx, l.Address()); err != nil {
			return err
		}
	}
	const number = 7
	dialling := t.dial(ctx, l.Address(), transport.Address{})
	sending := t.work("Write", func() error {
		conn, err := dialling.wait()
		if err != nil {
			return err
		}
		return send(conn.Socket, number)
	})
	for range waiters + 1 {
		accepted, err := t.accept(ctx, l).wait()
		if err != nil {
			return fmt.Errorf("after connections that broke before they were accepted: %w", err)
		}
		if got, err := receive(accepted.Socket); err == nil && got == number {
			_, err := sending.wait()
			return err
		}
	}
	return errors.New("the connection made after those that broke is not accepted")
}

// dialAndBreak connects and is gone again at once, with a reset where the
// transport has such a thing. A Dial that waits to be accepted is given up.
func (t *trial) dialAndBreak(ctx context.Context, at transport.Address) error {
	ctx, cancel := context.WithTimeout(ctx, t.patience/20)
	defer cancel()
	conn, err := t.dial(ctx, at, transport.Address{}).wait()
	if errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	if err != nil {
		return err
	}
	if tcp, ok := conn.Socket.(*net.TCPConn); ok {
		if err := tcp.SetLinger(0); err != nil {
			return err
		}
	}
	return conn.Socket.Close()
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
