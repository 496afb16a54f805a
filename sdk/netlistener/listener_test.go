// SPDX-License-Identifier: Apache-2.0

package netlistener

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
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	"github.com/flexnbd/flexnbd/sdk/transport"
	"github.com/flexnbd/flexnbd/sdk/transporttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// deadline bounds whatever a test waits for.
const deadline = 10 * time.Second

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	t.Cleanup(cancel)
	return ctx
}

func bind(t testing.TB) *net.TCPListener {
	t.Helper()
	socket, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = socket.Close() })
	return socket
}

func peer(c net.Conn) transport.Peer {
	return transport.Peer{Network: "tcp", Address: c.RemoteAddr().String()}
}

// listenAt makes a listener that is reached at the address of at.
func listenAt(socket Socket, at net.Listener, log func() hclog.Logger) *Listener {
	addr := at.Addr().(*net.TCPAddr)
	return New(socket, Config{
		Address: transport.Address{Addr: addr.IP.String(), Port: uint16(addr.Port)},
		Peer:    peer,
		Log:     log,
	})
}

// plain is the least of a transport around a Listener.
type plain struct{}

func (plain) Listen(ctx context.Context, addr transport.Address) (transport.Listener, error) {
	var config net.ListenConfig
	socket, err := config.Listen(ctx, "tcp", addr.String())
	if err != nil {
		return nil, err
	}
	return listenAt(socket.(*net.TCPListener), socket, nil), nil
}

func (plain) Dial(ctx context.Context, addr, _ transport.Address) (transport.Conn, error) {
	var dialer net.Dialer
	socket, err := dialer.DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return transport.Conn{}, err
	}
	return transport.Conn{Socket: socket, Peer: peer(socket)}, nil
}

func TestListenerKeepsContract(t *testing.T) {
	transporttest.Run(t, func(testing.TB) transporttest.Subject {
		return transporttest.Subject{
			Transport:   plain{},
			Listen:      transport.Address{Addr: "127.0.0.1"},
			PeerAddress: transporttest.LocalAddress,
		}
	})
}

// troubled is a socket whose accept fails: with each of errs in turn, then, if
// forEver is set, always with that.
type troubled struct {
	*net.TCPListener
	forEver error

	mu     sync.Mutex
	errs   []error
	failed chan struct{} // gets a value on each failure, if there is room
}

func (s *troubled) Accept() (net.Conn, error) {
	s.mu.Lock()
	err := s.forEver
	if len(s.errs) > 0 {
		err, s.errs = s.errs[0], s.errs[1:]
	}
	s.mu.Unlock()
	if err == nil {
		return s.TCPListener.Accept()
	}
	select {
	case s.failed <- struct{}{}:
	default:
	}
	return nil, &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", err)}
}

func newTroubled(t *testing.T, errs ...error) (*Listener, *troubled, *bytes.Buffer) {
	t.Helper()
	socket := &troubled{TCPListener: bind(t), errs: errs, failed: make(chan struct{}, 1)}
	var text bytes.Buffer // hclog locks it
	logger := hclog.New(&hclog.LoggerOptions{Output: &text, Level: hclog.Trace})
	return listenAt(socket, socket, func() hclog.Logger { return logger }), socket, &text
}

// connect dials l, accepts, and checks who was accepted.
func connect(t *testing.T, l *Listener) {
	t.Helper()
	dialled, err := net.Dial("tcp", l.Address().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = dialled.Close() }()
	accepted, err := l.Accept(within(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = accepted.Socket.Close() }()
	want := transport.Peer{Network: "tcp", Address: dialled.LocalAddr().String()}
	if accepted.Peer != want {
		t.Errorf("accepted %v, want %v", accepted.Peer, want)
	}
}

func TestAcceptGoesOnWhenDescriptorsAreFreeAgain(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM} {
		l, _, text := newTroubled(t, errno, errno, errno)
		connect(t, l)
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
	connect(t, l)
	if text.Len() != 0 {
		t.Errorf("logged: %s", text)
	}
}

func TestAcceptFailsWhenTheSocketIsOfNoUse(t *testing.T) {
	l, _, _ := newTroubled(t, syscall.ENOTSOCK)
	if _, err := l.Accept(within(t)); !errors.Is(err, syscall.ENOTSOCK) {
		t.Errorf("Accept returns %v, want ENOTSOCK", err)
	}
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
	if err := <-result; !errors.Is(err, context.Canceled) {
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
		if err := <-result; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept returns %v, want net.ErrClosed", err)
		}
	}
}

func TestSecondCloseIsHarmless(t *testing.T) {
	socket := bind(t)
	l := listenAt(socket, socket, nil)
	for range 2 {
		if err := l.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	if _, err := l.Accept(within(t)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept returns %v, want net.ErrClosed", err)
	}
}

func BenchmarkAccept(b *testing.B) {
	socket := bind(b)
	l := listenAt(socket, socket, nil)
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
