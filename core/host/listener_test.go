// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/sdk/transport"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// listening is a listener in a scripted plugin.
type listening struct {
	*Listener
	script
	t      *testing.T
	log    *logBuffer
	before int // descriptors open before it was made
}

func listen(t *testing.T) *listening {
	t.Helper()
	s := script(t.TempDir())
	program := self("test-listener", string(s))
	program.Kind = wire.KindTransport
	return listenIn(t, program, s)
}

func listenIn(t *testing.T, program Program, s script) *listening {
	t.Helper()
	l := &listening{t: t, script: s}
	var h *Host
	h, l.log = newHost(t)
	l.before = descriptors(t)
	var err error
	if l.Listener, err = h.Listen(t.Context(), program, transport.Address{Addr: "127.0.0.1"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return l
}

// outcome is what Accept returned.
type outcome struct {
	conn transport.Conn
	err  error
}

func (l *listening) accept(ctx context.Context) <-chan outcome {
	result := make(chan outcome, 1)
	go func() {
		conn, err := l.Accept(ctx)
		result <- outcome{conn, err}
	}()
	return result
}

// dial connects, also if nobody listens yet.
func (l *listening) dial() net.Conn {
	l.t.Helper()
	var conn net.Conn
	await(l.t, "somebody listens at "+l.Address().String(), func() (ok bool) {
		var err error
		conn, err = net.Dial("tcp", l.Address().String())
		return err == nil
	})
	l.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// connect makes one connection and returns both ends.
func (l *listening) connect() (client, server net.Conn) {
	l.t.Helper()
	result := l.accept(l.t.Context())
	client = l.dial()
	a := <-result
	if a.err != nil {
		l.t.Fatal(a.err)
	}
	l.t.Cleanup(func() { _ = a.conn.Socket.Close() })
	return client, a.conn.Socket
}

func passes(t *testing.T, from, to net.Conn) {
	t.Helper()
	p := make([]byte, 5)
	if _, err := from.Write([]byte("hello")); err != nil {
		t.Error(err)
	} else if _, err := to.Read(p); err != nil || string(p) != "hello" {
		t.Errorf("read %q, %v", p, err)
	}
}

func (l *listening) signal(s syscall.Signal) *Process {
	l.t.Helper()
	p := l.Process()
	if err := unix.Kill(p.PID(), s); err != nil {
		l.t.Fatal(err)
	}
	return p
}

func (l *listening) logged(text string) int { return strings.Count(l.log.String(), text) }

func TestTransportComesBackAtItsAddress(t *testing.T) {
	l := listen(t)
	address := l.Address()
	client, server := l.connect()
	for i, signal := range []syscall.Signal{unix.SIGKILL, unix.SIGSTOP, unix.SIGKILL} {
		result := l.accept(t.Context())
		old := l.signal(signal)
		_ = exited(t, old)
		await(t, "another process listens", func() bool { return l.logged("transport restarted") == i+1 })
		newClient := l.dial()
		a := <-result
		if a.err != nil {
			t.Fatalf("Accept through %v: %v", signal, a.err)
		}
		passes(t, newClient, a.conn.Socket)
		_ = a.conn.Socket.Close()
		if l.Address() != address {
			t.Errorf("it listens at %v, not at %v any more", l.Address(), address)
		}
	}
	passes(t, client, server)
	passes(t, server, client)
	if l.logged(`how="signal: killed"`) != 2 || l.logged("was stopped by a signal and is given up") != 1 {
		t.Errorf("log:\n%s", l.log)
	}
}

func TestTransportThatCrashedWhileNobodyAcceptedIsReplaced(t *testing.T) {
	l := listen(t)
	for _, signal := range []syscall.Signal{unix.SIGKILL, unix.SIGSTOP} {
		old := l.signal(signal)
		await(t, "it is down", old.isDown)
		client, server := l.connectAfterRestart()
		passes(t, client, server)
	}
}

// connectAfterRestart is connect for a port at which the old process's backlog may
// still take a connection, which is lost with it.
func (l *listening) connectAfterRestart() (client, server net.Conn) {
	l.t.Helper()
	n := l.logged("transport restarted")
	result := l.accept(l.t.Context())
	await(l.t, "another process listens", func() bool { return l.logged("transport restarted") > n })
	client = l.dial()
	a := <-result
	if a.err != nil {
		l.t.Fatal(a.err)
	}
	l.t.Cleanup(func() { _ = a.conn.Socket.Close() })
	return client, a.conn.Socket
}

func TestHungTransportIsReplaced(t *testing.T) {
	impatient(t)
	s := script(t.TempDir())
	l := listenIn(t, mute(t, wire.KindTransport, s), s)
	s.order(t, "hold", "describe")
	client, server := l.connectAfterRestart()
	passes(t, client, server)
	if l.logged("does not answer and is given up") != 1 {
		t.Errorf("log:\n%s", l.log)
	}
}

func TestTransportThatCanNotAcceptIsReplaced(t *testing.T) {
	l := listen(t)
	l.order(t, "fail", "accept")
	result := l.accept(t.Context())
	l.dial()
	await(t, "another process listens", func() bool { return l.logged("transport restarted") == 1 })
	l.countermand(t, "fail", "accept")
	l.dial()
	a := <-result
	if a.err != nil {
		t.Fatal(a.err)
	}
	_ = a.conn.Socket.Close()
	if l.logged("can't accept connections and is replaced") != 1 || l.logged("told to fail") == 0 || l.logged("unexpectedly") != 0 {
		t.Errorf("log:\n%s", l.log)
	}
}

func TestAcceptEndsWithItsContext(t *testing.T) {
	l := listen(t)
	for _, restarting := range []bool{false, true} {
		ctx, cancel := context.WithCancel(t.Context())
		result := l.accept(ctx)
		if restarting {
			l.order(t, "fail", "listen")
			l.signal(unix.SIGKILL)
			await(t, "it restarts", func() bool { return l.logged("can't be started again yet") > 0 })
		}
		cancel()
		if a := <-result; !is(a.err, context.Canceled) || is(a.err, net.ErrClosed) {
			t.Errorf("restarting %v: %v", restarting, a.err)
		}
	}
	l.countermand(t, "fail", "listen")
	client, server := l.connectAfterRestart() // the next Accept goes on where the last one stopped
	passes(t, client, server)
}

func TestListenerMayBeClosedAtAnyTime(t *testing.T) {
	unhurried(t)
	for _, doing := range []string{"accept", "fail", "hang", "stopped"} {
		t.Run(doing, func(t *testing.T) {
			l := listen(t)
			if doing == "stopped" {
				l.signal(unix.SIGSTOP) // which is not noticed yet, perhaps
				began := time.Now()
				if err := l.Close(); err != nil {
					t.Error(err)
				}
				if took := time.Since(began); took > stopWait {
					t.Errorf("Close took %v", took)
				}
				return
			}
			result := l.accept(t.Context())
			if doing != "accept" {
				l.journal(t)
				l.order(t, doing, "listen")
				l.signal(unix.SIGKILL)
				await(t, "a new process is told to "+doing, func() bool { return l.peek() != "" })
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
			if a := <-result; !is(a.err, net.ErrClosed) {
				t.Errorf("Accept: %v", a.err)
			}
			if _, err := l.Accept(t.Context()); !is(err, net.ErrClosed) {
				t.Errorf("Accept after Close: %v", err)
			}
			await(t, "descriptors are closed again", func() bool { return descriptors(t) <= l.before })
			if left := children(t); len(left) > 0 {
				t.Errorf("processes %v are left", left)
			}
		})
	}
}

func TestAddressThatIsInUseIsTriedAgain(t *testing.T) {
	shorten(t, &lastPause, 50*time.Millisecond)
	old := maxRestarts
	maxRestarts = 1000
	t.Cleanup(func() { maxRestarts = old })
	l := listen(t)
	l.order(t, "fail", "listen") // until the address is taken
	result := l.accept(t.Context())
	_ = exited(t, l.signal(unix.SIGKILL))
	squatter, err := net.Listen("tcp", l.Address().String())
	if err != nil {
		t.Fatal(err)
	}
	l.countermand(t, "fail", "listen")
	await(t, "the address is in use", func() bool { return l.logged("address already in use") >= 2 })
	if err := squatter.Close(); err != nil {
		t.Fatal(err)
	}
	await(t, "another process listens", func() bool { return l.logged("transport restarted") == 1 })
	l.dial()
	a := <-result
	if a.err != nil {
		t.Fatal(a.err)
	}
	_ = a.conn.Socket.Close()
}

func TestRestartsOfATransportAreBounded(t *testing.T) {
	old := maxRestarts
	maxRestarts = 3
	t.Cleanup(func() { maxRestarts = old })
	l := listen(t)
	l.order(t, "exit", "listen")
	result := l.accept(t.Context())
	l.signal(unix.SIGKILL)
	a := <-result
	if !strings.Contains(fmt.Sprint(a.err), "transport test was started 3 times within") {
		t.Errorf("Accept: %v", a.err)
	}
	if l.logged("ended unexpectedly") != 4 {
		t.Errorf("log:\n%s", l.log)
	}
}

// crowded is a listener that loses connections for want of descriptors.
type crowded struct {
	transport.Listener
	errs []error
}

func (c *crowded) Accept(context.Context) (transport.Conn, error) {
	err := c.errs[0]
	c.errs = c.errs[1:]
	return transport.Conn{}, err
}

func TestConnectionsLostForWantOfDescriptorsDoNotEndAccept(t *testing.T) {
	l := listen(t)
	full := fmt.Errorf("lost: %w", syscall.EMFILE)
	last := errors.New("no descriptors, no errors")
	var n namedListener
	n.process = l.Process()
	n.Listener = &crowded{errs: []error{full, full, fmt.Errorf("lost: %w", syscall.ENFILE), nil, full, last}}
	if _, err := n.Accept(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Accept(t.Context()); !is(err, last) {
		t.Fatal(err)
	}
	if l.logged("connections are lost until files are closed") != 2 { // once each time
		t.Errorf("log:\n%s", l.log)
	}
}

// taken is an address that somebody listens at, until leave is called.
func taken(t *testing.T) (address transport.Address, leave func()) {
	t.Helper()
	squatter, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = squatter.Close() })
	port := squatter.Addr().(*net.TCPAddr).Port
	return transport.Address{Addr: "127.0.0.1", Port: uint16(port)}, func() {
		t.Helper()
		if err := squatter.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// waiting is a ListenWhenFree that is under way.
type waiting struct {
	script
	log     *logBuffer
	refused chan error
	result  chan madeListener
}

type madeListener struct {
	*Listener
	err error
}

func listenWhenFree(t *testing.T, ctx context.Context, address transport.Address) *waiting {
	t.Helper()
	w := &waiting{script: script(t.TempDir()), refused: make(chan error, 1000), result: make(chan madeListener, 1)}
	program := self("test-listener", string(w.script))
	program.Kind = wire.KindTransport
	var h *Host
	h, w.log = newHost(t)
	go func() {
		l, err := h.ListenWhenFree(ctx, program, address, func(err error) { w.refused <- err })
		w.result <- madeListener{l, err}
	}()
	return w
}

// succeeds waits until there is a listener, which it closes.
func (w *waiting) succeeds(t *testing.T, address transport.Address) {
	t.Helper()
	m := <-w.result
	if m.err != nil {
		t.Fatal(m.err)
	}
	if m.Address() != address {
		t.Errorf("listens at %v", m.Address())
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

// wantRefusal waits until the address has been refused once more.
func (w *waiting) wantRefusal(t *testing.T) {
	t.Helper()
	if err := <-w.refused; err == nil {
		t.Fatal("refused for no reason")
	}
}

func TestListeningWaitsUntilTheAddressIsFree(t *testing.T) {
	address, leave := taken(t)
	ctx, cancel := context.WithCancel(t.Context())
	given := listenWhenFree(t, ctx, address)
	given.wantRefusal(t)
	cancel()
	if m := <-given.result; m.err == nil {
		t.Fatal("listened at an address that was taken")
	}
	w := listenWhenFree(t, t.Context(), address)
	for range 3 {
		if err := <-w.refused; !strings.Contains(err.Error(), "address already in use") {
			t.Errorf("refused with %v", err)
		}
	}
	if left := children(t); len(left) != 1 {
		t.Errorf("processes %v run, and one is enough", left)
	}
	leave()
	w.succeeds(t, address)
}

func TestListeningWaitsThroughTheLossOfItsTransport(t *testing.T) {
	address, leave := taken(t)
	w := listenWhenFree(t, t.Context(), address)
	lost := func() int { return strings.Count(w.log.String(), "lost before it could listen and is replaced") }
	for i, signal := range []syscall.Signal{unix.SIGKILL, unix.SIGSTOP} {
		for len(w.refused) > 0 {
			w.wantRefusal(t)
		}
		w.wantRefusal(t)
		old := children(t)
		if len(old) != 1 {
			t.Fatalf("processes %v run", old)
		}
		pid, err := strconv.Atoi(old[0])
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Kill(pid, signal); err != nil {
			t.Fatal(err)
		}
		await(t, fmt.Sprintf("the loss by %v is noticed", signal), func() bool { return lost() == i+1 })
		await(t, "another process runs", func() bool { now := children(t); return len(now) == 1 && now[0] != old[0] })
	}
	leave()
	w.succeeds(t, address)
}

func TestListeningGivesUpATransportThatAlwaysCrashes(t *testing.T) {
	shorten(t, &lastPause, 10*time.Millisecond)
	old := maxRestarts
	maxRestarts = 3
	t.Cleanup(func() { maxRestarts = old })
	address, _ := taken(t)
	w := listenWhenFree(t, t.Context(), address)
	w.wantRefusal(t)
	w.order(t, "exit", "listen")
	m := <-w.result
	if !strings.Contains(fmt.Sprint(m.err), "transport test was started 3 times within") || !is(m.err, wire.ErrPluginGone) {
		t.Errorf("ListenWhenFree: %v", m.err)
	}
	if n := strings.Count(w.log.String(), "ended unexpectedly"); n != 3 {
		t.Errorf("it crashed %d times", n)
	}
	if left := children(t); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
}
