// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"context"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/sdk/transport"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// dialling is a dialler whose transport is scripted, and somebody to dial.
type dialling struct {
	*Dialler
	script
	t    *testing.T
	log  *logBuffer
	peer net.Listener
}

func newDialling(t *testing.T) *dialling {
	t.Helper()
	s := script(t.TempDir())
	program := self("test-listener", string(s))
	program.Kind = wire.KindTransport
	return diallingIn(t, program, s)
}

func diallingIn(t *testing.T, program Program, s script) *dialling {
	t.Helper()
	d := &dialling{t: t, script: s}
	var h *Host
	h, d.log = newHost(t)
	d.Dialler = h.Dialler(program)
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if left := children(t); len(left) > 0 {
			t.Errorf("processes %v are left", left)
		}
	})
	var err error
	if d.peer, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.peer.Close() })
	return d
}

func (d *dialling) dial(ctx context.Context) (net.Conn, error) {
	at := d.peer.Addr().(*net.TCPAddr)
	return d.Dial(ctx, transport.Address{Addr: at.IP.String(), Port: uint16(at.Port)}, transport.Address{})
}

// connects checks that a Dial connects and returns which process did it.
func (d *dialling) connects() *Process {
	d.t.Helper()
	ours, err := d.dial(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	defer func() { _ = ours.Close() }()
	theirs, err := d.peer.Accept()
	if err != nil {
		d.t.Fatal(err)
	}
	defer func() { _ = theirs.Close() }()
	passes(d.t, ours, theirs)
	passes(d.t, theirs, ours)
	return d.process
}

// held starts a Dial that never ends by itself.
func (d *dialling) held(ctx context.Context) <-chan error {
	d.t.Helper()
	d.order(d.t, "hold", "dial")
	result := make(chan error, 1)
	go func() {
		_, err := d.dial(ctx)
		result <- err
	}()
	d.awaitHeld(d.t, "dial")
	return result
}

func TestDialsHaveOneProcess(t *testing.T) {
	d := newDialling(t)
	if left := children(t); len(left) > 0 {
		t.Errorf("processes %v run before they are needed", left)
	}
	if first := d.connects(); d.connects() != first {
		t.Error("each Dial has a process of its own")
	}
	d.order(t, "fail", "dial")
	first := d.process
	if _, err := d.dial(t.Context()); err == nil || !strings.Contains(err.Error(), "transport test: told to fail") {
		t.Errorf("Dial: %v", err)
	}
	d.countermand(t, "fail", "dial")
	if d.connects() != first {
		t.Error("a Dial that failed has cost the process")
	}
}

func TestLossOfTheTransportFailsTheDialAndTheNextOneHasAnother(t *testing.T) {
	d := newDialling(t)
	for _, signal := range []syscall.Signal{unix.SIGKILL, unix.SIGSTOP} {
		old := d.connects()
		result := d.held(t.Context())
		if err := unix.Kill(old.PID(), signal); err != nil {
			t.Fatal(err)
		}
		if err := <-result; !is(err, wire.ErrPluginGone) || !strings.HasPrefix(fmt.Sprint(err), "transport test: ") {
			t.Errorf("the Dial in flight through %v: %v", signal, err)
		}
		_ = exited(t, old)
		if d.connects() == old {
			t.Errorf("after %v the old process dials", signal)
		}
	}
}

func TestTransportThatWasLostBetweenDialsIsReplaced(t *testing.T) {
	d := newDialling(t)
	for _, signal := range []syscall.Signal{unix.SIGKILL, unix.SIGSTOP} {
		old := d.connects()
		if err := unix.Kill(old.PID(), signal); err != nil {
			t.Fatal(err)
		}
		await(t, "it is down", old.isDown)
		if d.connects() == old {
			t.Errorf("after %v the old process dials", signal)
		}
	}
}

func TestHungTransportFailsTheDialAndIsReplaced(t *testing.T) {
	impatient(t)
	s := script(t.TempDir())
	d := diallingIn(t, mute(t, wire.KindTransport, s), s)
	old := d.connects()
	result := d.held(t.Context())
	d.order(t, "hold", "describe")
	if err := <-result; !is(err, wire.ErrPluginGone) {
		t.Errorf("the Dial in flight: %v", err)
	}
	_ = exited(t, old)
	d.connects()
}

func TestTransportThatIsSilentUntilTheDeadlineIsReplaced(t *testing.T) {
	d := newDialling(t)
	old := d.connects()
	ctx, cancel := context.WithCancel(t.Context())
	result := d.held(ctx)
	cancel()
	if err := <-result; !is(err, context.Canceled) {
		t.Errorf("a Dial that was called off: %v", err)
	}
	if d.connects() != old {
		t.Error("a Dial that was called off has cost the process")
	}

	d.order(t, "hold", "dial")
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := d.dial(ctx); !is(err, context.DeadlineExceeded) {
		t.Errorf("a Dial that is not answered: %v", err)
	}
	select {
	case <-old.Exited():
	default:
		t.Error("the process that did not answer runs on")
	}
	if d.connects() == old {
		t.Error("the old process dials")
	}
}

func TestDiallerMayBeClosedAtAnyTime(t *testing.T) {
	d := newDialling(t)
	d.connects()
	result := d.held(t.Context())
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if err := <-result; !is(err, wire.ErrPluginGone) {
		t.Errorf("the Dial in flight: %v", err)
	}
	if _, err := d.dial(t.Context()); !is(err, net.ErrClosed) {
		t.Errorf("Dial after Close: %v", err)
	}
}
