// SPDX-License-Identifier: GPL-3.0-or-later

package server

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flexnbd/flexnbd/core/export"
	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/core/session"
	"github.com/flexnbd/flexnbd/sdk/transport"
)

// newListener returns one of its own, with its own journal. Its Accept ends with the
// listener, as those of real ones do.
func newListener() *closing {
	return &closing{
		listener: listener{journal: &journal{}, conns: make(chan transport.Conn), broken: make(chan error)},
		closed:   make(chan struct{}),
	}
}

// closing is a listener whose Accept ends when it is closed.
type closing struct {
	listener
	closed chan struct{}
	slow   chan struct{} // Close waits for it; nil: for nothing
	err    error         // of Close
	once   sync.Once
}

func (l *closing) Accept(ctx context.Context) (transport.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case err := <-l.broken:
		return transport.Conn{}, err
	case <-l.closed:
		return transport.Conn{}, net.ErrClosed
	case <-ctx.Done():
		return transport.Conn{}, ctx.Err()
	}
}

func (l *closing) Close() error {
	l.once.Do(func() { close(l.closed) })
	if l.slow != nil {
		<-l.slow
	}
	_ = l.listener.Close()
	return l.err
}

// wantClosed checks that a listener has been closed so many times.
func (j *journal) wantClosed(t *testing.T, times int) {
	t.Helper()
	n := 0
	for _, event := range j.all() {
		if event == "listener closed" {
			n++
		}
	}
	if n != times {
		t.Errorf("the listener was closed %d times, want %d", n, times)
	}
}

// connectAt is connect at another listener.
func (r *rig) connectAt(l *closing) *client {
	near, far := net.Pipe()
	l.conns <- transport.Conn{Socket: far, Peer: transport.Peer{Network: "tcp", Address: "10.0.0.2:1"}}
	r.t.Cleanup(func() { near.Close() })
	return &client{r.t, near}
}

// alive checks that a connection is served.
func (c *client) alive() {
	c.t.Helper()
	c.send(nbd.CmdFlush, 0)
	c.wantErrno(0)
}

// running checks that Run has not returned.
func (r *rig) running() {
	r.t.Helper()
	select {
	case err := <-r.done:
		r.t.Fatalf("Run returned %v", err)
	default:
	}
}

func TestMoveToTakesTheServerToAnotherListener(t *testing.T) {
	r := start(t, nil)
	first := r.connect("10.0.0.1:1").enter()
	second, third := newListener(), newListener()
	for i, l := range []*closing{second, third} {
		if err := r.MoveTo(l); err != nil {
			t.Fatal(err)
		}
		r.wantClosed(t, 1)
		second.wantClosed(t, i)
		r.connectAt(l).enter().alive()
		first.alive()
	}
	third.wantClosed(t, 0)
	r.stop()
	first.wantEnd()
	if err := r.result(); err != nil {
		t.Error(err)
	}
	for _, j := range []*journal{r.journal, second.journal, third.journal} {
		j.wantClosed(t, 1)
	}
}

// TestMoveToBeforeRun takes the place of the listener that New was given.
func TestMoveToBeforeRun(t *testing.T) {
	l := newListener()
	var d door
	d.listener = &listener{journal: &journal{}}
	if err := d.moveTo(l); err != nil {
		t.Fatal(err)
	}
	far, near := net.Pipe()
	defer far.Close()
	defer near.Close()
	go func() { l.conns <- transport.Conn{Socket: far} }()
	if conn, err := d.accept(t.Context()); err != nil || conn.Socket != far {
		t.Errorf("got %v, %v", conn, err)
	}
}

func TestLeaveClosesTheListenerAndServesOn(t *testing.T) {
	r := start(t, nil)
	c := r.connect("10.0.0.1:1").enter()
	if err := r.Leave(); err != nil {
		t.Fatal(err)
	}
	r.wantClosed(t, 1)
	for range 3 {
		if err := r.Leave(); err != nil {
			t.Fatal(err)
		}
		c.alive()
	}
	r.running()
	if r.Clients() != 1 {
		t.Errorf("%d clients", r.Clients())
	}
	r.stop()
	c.wantEnd()
	if err := r.result(); err != nil {
		t.Error(err)
	}
	r.wantClosed(t, 1)
}

// TestWhoeverLeavesFindsTheDoorShut has a listener that takes its time to close,
// however many ask for it.
func TestWhoeverLeavesFindsTheDoorShut(t *testing.T) {
	r := start(t, nil)
	slow, next := newListener(), newListener()
	slow.slow = make(chan struct{})
	if err := r.MoveTo(slow); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 3)
	go func() { done <- r.MoveTo(next) }()
	<-slow.closed // about to
	c := r.connectAt(next).enter()
	go func() { done <- r.Leave() }()
	go func() { done <- r.Leave() }()
	for range 20 { // the new listener's clients do not wait for the old one
		c.alive()
	}
	if len(done) > 0 {
		t.Error("somebody was told of a closed listener that is open")
	}
	next.wantClosed(t, 0)
	close(slow.slow)
	for range 3 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	slow.wantClosed(t, 1)
	next.wantClosed(t, 1)
	r.running()
}

func TestErrorOfCloseIsReported(t *testing.T) {
	r := start(t, nil)
	odd := newListener()
	odd.err = errors.New("the socket does not close")
	if err := r.MoveTo(odd); err != nil {
		t.Fatal(err)
	}
	if err := r.Leave(); !errors.Is(err, odd.err) {
		t.Errorf("Leave returned %v", err)
	}
}

func TestMoveToAfterLeaveClosesTheNewListener(t *testing.T) {
	r := start(t, nil)
	if err := r.Leave(); err != nil {
		t.Fatal(err)
	}
	l := newListener()
	if err := r.MoveTo(l); err != nil {
		t.Fatal(err)
	}
	l.wantClosed(t, 1)
	r.running()
	r.stop()
	if err := r.result(); err != nil {
		t.Error(err)
	}
	l = newListener()
	if err := r.MoveTo(l); err != nil {
		t.Fatal(err)
	}
	l.wantClosed(t, 1)
	r.wantClosed(t, 1)
}

func TestListenerThatFailsAfterAMoveEndsRun(t *testing.T) {
	r := start(t, nil)
	c := r.connect("10.0.0.1:1").enter()
	l := newListener()
	if err := r.MoveTo(l); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("no such socket any more")
	l.broken <- broken
	c.wantEnd()
	if err := r.result(); !errors.Is(err, broken) {
		t.Errorf("Run returned %v", err)
	}
	l.wantClosed(t, 1)
}

// TestListenerThatIsReplacedFailsUnheard checks that an error of one which is closed
// on purpose ends nothing, whatever it is.
func TestListenerThatIsReplacedFailsUnheard(t *testing.T) {
	r := start(t, nil)
	for range 100 {
		if err := r.MoveTo(newListener()); err != nil {
			t.Fatal(err)
		}
	}
	l := newListener()
	if err := r.MoveTo(l); err != nil {
		t.Fatal(err)
	}
	r.connectAt(l).enter().alive()
	if err := r.Leave(); err != nil {
		t.Fatal(err)
	}
	r.running()
	r.stop()
	if err := r.result(); err != nil {
		t.Error(err)
	}
}

// TestConnectionOfTheOldListenerIsNotLost is one that it hands out when it is told to
// end.
func TestConnectionOfTheOldListenerIsNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil)
		synctest.Wait() // for the Accept
		near, far := net.Pipe()
		defer near.Close()
		r.late <- transport.Conn{Socket: far}
		if err := r.MoveTo(newListener()); err != nil {
			t.Fatal(err)
		}
		(&client{t, near}).enter().alive()
	})
}

// TestDoorUnderEverybody moves, leaves and stops at the same time. Each listener is
// closed in the end, once.
func TestDoorUnderEverybody(t *testing.T) {
	for round := range 50 {
		r := start(t, nil)
		var movers sync.WaitGroup
		listeners := make([]*closing, 8)
		for i := range listeners {
			listeners[i] = newListener()
			movers.Go(func() {
				if err := r.MoveTo(listeners[i]); err != nil {
					t.Error(err)
				}
			})
		}
		if round%2 == 0 {
			movers.Go(func() {
				if err := r.Leave(); err != nil {
					t.Error(err)
				}
			})
		}
		movers.Go(r.stop)
		movers.Wait()
		if err := r.result(); err != nil {
			t.Error(err)
		}
		r.wantClosed(t, 1)
		for _, l := range listeners {
			l.wantClosed(t, 1)
		}
	}
}

// TestDisconnectEndsEveryConnection and nothing else: Run goes on until it is
// stopped.
func TestDisconnectEndsEveryConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var e *export.Export
		r := start(t, nil)
		e = r.config.Export
		idle, greeting, stalled := r.connect("10.0.0.1:1").enter(), r.connect("10.0.0.1:2"), r.connect("10.0.0.1:3").enter()
		greeting.take(nbd.GreetingSize)
		stalled.send(nbd.CmdWrite, 4096)
		stalled.say(make([]byte, 100))
		e.Gate().Hold()
		waiting := r.connect("10.0.0.1:4").enter()
		waiting.send(nbd.CmdRead, 4096)
		synctest.Wait()
		if err := r.Leave(); err != nil {
			t.Fatal(err)
		}
		e.Gate().Close()
		began := time.Now()
		r.Disconnect()
		r.Disconnect()
		for _, c := range []*client{idle, greeting, stalled, waiting} {
			c.wantEnd()
		}
		synctest.Wait()
		if took := time.Since(began); took != 0 || r.Clients() != 0 {
			t.Errorf("after %v there are %d clients", took, r.Clients())
		}
		r.running()
		r.stop()
		if err := r.result(); err != nil {
			t.Error(err)
		}
	})
}

// TestStopAfterDisconnectWaitsForNoDeafClient for longer than movedTimeout.
func TestStopAfterDisconnectWaitsForNoDeafClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil)
		c := r.connect("10.0.0.1:1").enter()
		c.writeOneByte()
		c.send(nbd.CmdRead, 4096)
		synctest.Wait()
		r.config.Export.Gate().Close()
		r.Disconnect()
		synctest.Wait()
		began := time.Now()
		r.stop()
		if err := r.result(); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took != movedTimeout {
			t.Errorf("it took %v", took)
		}
		if got := r.all(); slices.Contains(got, "flush") {
			t.Errorf("a disk that has moved away was flushed: %v", got)
		}
	})
}

// TestStopAfterDisconnectDoesNotFlush: a backend whose flush fails does
// not make a migration fail that has succeeded.
func TestStopAfterDisconnectDoesNotFlush(t *testing.T) {
	r := start(t, func(_ *Config, _ *export.Options, d *disk) { d.flushErr = syscall.EIO })
	r.config.Export.Gate().Close()
	r.Disconnect()
	r.stop()
	if err := r.result(); err != nil {
		t.Errorf("Run returned %v", err)
	}
	if got := r.all(); slices.Contains(got, "flush") {
		t.Errorf("what happened is %v", got)
	}
}

// TestBackendThatHangsIsNoErrorOnceTheDiskHasMoved: it is abandoned, since the process
// has to end. One that not even that ends is no error either.
func TestBackendThatHangsIsNoErrorOnceTheDiskHasMoved(t *testing.T) {
	for name, ends := range map[string]bool{"ends": true, "hangs on": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := start(t, func(_ *Config, _ *export.Options, d *disk) { d.blocked = make(chan struct{}) })
				c := r.connect("10.0.0.1:1").enter()
				c.writeOneByte()
				c.send(nbd.CmdRead, 4096)
				<-r.disk.entered
				r.config.Export.Gate().Close()
				r.Disconnect()
				began := time.Now()
				r.stop()
				<-r.abandoned
				if took := time.Since(began); took != movedTimeout+cutTimeout {
					t.Errorf("the backend was abandoned after %v", took)
				}
				if ends {
					close(r.disk.blocked)
				}
				if err := r.result(); err != nil {
					t.Errorf("Run returned %v", err)
				}
				if !ends {
					close(r.disk.blocked)
				}
				c.wantEnd()
				synctest.Wait()
				if got := r.all(); slices.Contains(got, "flush") {
					t.Errorf("what happened is %v", got)
				}
			})
		})
	}
}

// TestMoveInTheMiddleOfTheStop comes while clients have their time to finish.
func TestMoveInTheMiddleOfTheStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, func(_ *Config, _ *export.Options, d *disk) {
			d.blocked = make(chan struct{})
			d.flushErr = syscall.EIO
		})
		c := r.connect("10.0.0.1:1").enter()
		c.writeOneByte()
		c.send(nbd.CmdRead, 4096)
		<-r.disk.entered
		r.stop()
		synctest.Wait()
		r.config.Export.Gate().Close()
		r.Disconnect()
		close(r.disk.blocked)
		if err := r.result(); err != nil {
			t.Errorf("Run returned %v", err)
		}
		_ = c.Close()
	})
}

// gatekeeper is a Migration that lets nobody in, and tells whom.
type gatekeeper struct{ peers chan string }

func (gatekeeper) Guest() string { return "this server waits for a disk" }

func (g gatekeeper) Hello(_ context.Context, _ nbd.MigrationHello, link session.Link) (session.Sender, nbd.MigrationAnswer, error) {
	g.peers <- link.Peer()
	return nil, nbd.MigrationAnswer{}, errors.New("no disk is wanted")
}

func (gatekeeper) Oldstyle(context.Context, session.Link) (session.Sender, error) {
	return nil, errors.New("no disk is wanted")
}

// TestMigrationIsAsked checks that every connection asks the one of the
// configuration, in the name of its peer.
func TestMigrationIsAsked(t *testing.T) {
	g := gatekeeper{make(chan string, 1)}
	r := start(t, func(c *Config, _ *export.Options, _ *disk) { c.Migration = g })
	c := r.connect("10.0.0.1:1")
	c.take(nbd.GreetingSize)
	c.say(nbd.AppendClientFlags(nil, nbd.FlagClientFixedNewstyle))
	for opt, ask := range map[nbd.Option]struct {
		data []byte
		text string
	}{
		nbd.OptGo: {nbd.AppendInfoRequest(nil, ""), "waits for a disk"},
		nbd.OptMigrate: {nbd.AppendMigrationHello(nil, nbd.MigrationHello{
			Version: nbd.MigrationVersion, Purpose: nbd.MigrationSend, Source: [16]byte{1}, ID: [16]byte{1},
		}), "no disk is wanted"},
	} {
		c.say(nbd.AppendOption(nil, opt, ask.data))
		h, data, err := nbd.ReadOptionReply(io.Reader(c))
		if err != nil || h.Reply != nbd.RepErrPolicy || !strings.Contains(string(data), ask.text) {
			t.Errorf("%v: got %v %q, %v", opt, h.Reply, data, err)
		}
	}
	if peer := <-g.peers; peer != "10.0.0.1:1" {
		t.Errorf("the peer is %q", peer)
	}
}
