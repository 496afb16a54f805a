// SPDX-License-Identifier: GPL-3.0-or-later

package tcp

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/flexnbd/flexnbd/sdk/transport"
)

// troubled is a socket whose accept fails: with each of errs in turn, then, if
// forEver is set, always with that.
type troubled struct {
	*net.TCPListener
	forEver error

	mu     sync.Mutex
	errs   []error
	failed chan struct{} // gets a value on each failure, if there is room
}

func (s *troubled) AcceptTCP() (*net.TCPConn, error) {
	s.mu.Lock()
	err := s.forEver
	if len(s.errs) > 0 {
		err, s.errs = s.errs[0], s.errs[1:]
	}
	s.mu.Unlock()
	if err == nil {
		return s.TCPListener.AcceptTCP()
	}
	select {
	case s.failed <- struct{}{}:
	default:
	}
	return nil, &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", err)}
}

func newTroubled(t *testing.T, errs ...error) (*listener, *troubled, *bytes.Buffer) {
	t.Helper()
	l := listen(t, "127.0.0.1").(*listener)
	socket := &troubled{TCPListener: l.socket.(*net.TCPListener), errs: errs, failed: make(chan struct{}, 1)}
	var text bytes.Buffer // hclog locks it
	logger := hclog.New(&hclog.LoggerOptions{Output: &text, Level: hclog.Trace})
	return newListener(socket, func() hclog.Logger { return logger }), socket, &text
}

func TestAcceptGoesOnWhenDescriptorsAreFreeAgain(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM} {
		l, _, text := newTroubled(t, errno, errno, errno)
		dialled, accepted := connection(t, l, "127.0.0.1")
		if accepted.Peer.Address != dialled.Socket.LocalAddr().String() {
			t.Errorf("%v: accepted %s, dialled from %s", errno, accepted.Peer.Address, dialled.Socket.LocalAddr())
		}
		if n := strings.Count(text.String(), "[WARN]"); n != 1 {
			t.Errorf("%v: %d warnings, want 1:\n%s", errno, n, text)
		}
		for _, part := range []string{l.Address().String(), errno.Error(), "LimitNOFILE"} {
			if !strings.Contains(text.String(), part) {
				t.Errorf("%v: the warning does not say %q: %s", errno, part, text)
			}
		}
	}
}

func TestAcceptPassesOverConnectionsThatBroke(t *testing.T) {
	l, _, text := newTroubled(t, syscall.ECONNABORTED, syscall.EPROTO, syscall.ENETDOWN, syscall.EPERM, syscall.ETIMEDOUT)
	connection(t, l, "127.0.0.1")
	if text.Len() != 0 {
		t.Errorf("logged: %s", text)
	}
}

func TestAcceptFailsWhenTheSocketIsOfNoUse(t *testing.T) {
	l, _, _ := newTroubled(t, syscall.ENOTSOCK)
	_, err := l.Accept(within(t))
	wants(t, err, syscall.ENOTSOCK)
}

func TestContextEndsAcceptDuringShortage(t *testing.T) {
	l, socket, _ := newTroubled(t)
	socket.forEver = syscall.EMFILE
	ctx, cancel := context.WithCancel(within(t))
	result := make(chan error)
	go func() {
		_, err := l.Accept(ctx)
		result <- err
	}()
	<-socket.failed
	cancel()
	if err := <-result; err != context.Canceled {
		t.Errorf("Accept returns %v, want context.Canceled", err)
	}
}

func TestCloseEndsAcceptDuringShortage(t *testing.T) {
	l, socket, _ := newTroubled(t)
	socket.forEver = syscall.EMFILE
	ctx := within(t)
	result := make(chan error)
	for range 3 { // one pauses, two wait for their turn
		go func() {
			_, err := l.Accept(ctx)
			result <- err
		}()
	}
	<-socket.failed
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	for range 3 {
		if err := <-result; err != net.ErrClosed {
			t.Errorf("Accept returns %v, want net.ErrClosed", err)
		}
	}
}

func TestSecondCloseIsHarmless(t *testing.T) {
	l := listen(t, "127.0.0.1")
	for range 2 {
		if err := l.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	if _, err := l.Accept(within(t)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept returns %v, want net.ErrClosed", err)
	}
}

func TestZeroTransportLogsToDefault(t *testing.T) {
	if got := New().(*Transport).logger(); got != hclog.Default() {
		t.Errorf("the logger is %v", got)
	}
	own := hclog.NewNullLogger()
	if got := (&Transport{Log: own}).logger(); got != own {
		t.Errorf("the logger is %v, want the one that was set", got)
	}
}

func BenchmarkAccept(b *testing.B) {
	l, err := New().Listen(b.Context(), transport.Address{Addr: "127.0.0.1"})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	for b.Loop() {
		dialled, err := net.Dial("tcp", l.Address().String())
		if err != nil {
			b.Fatal(err)
		}
		accepted, err := l.Accept(ctx)
		if err != nil {
			b.Fatal(err)
		}
		_, _ = dialled.Close(), accepted.Socket.Close()
	}
}
