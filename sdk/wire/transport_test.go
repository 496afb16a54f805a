// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/flexnbd/flexnbd/sdk/transport"
	"github.com/flexnbd/flexnbd/sdk/wire"
	transportv1 "github.com/flexnbd/flexnbd/sdk/wire/proto/transport/v1"
	"github.com/flexnbd/flexnbd/sdk/wire/wiretest"
)

// dialling is a transport whose Dial a test scripts.
type dialling struct {
	transport.Transport
	dial func(ctx context.Context, addr, bind transport.Address) (transport.Conn, error)
}

func (d dialling) Dial(ctx context.Context, addr, bind transport.Address) (transport.Conn, error) {
	return d.dial(ctx, addr, bind)
}

// dial dials nowhere over the wire; the transport returns conn.
func dial(t *testing.T, conn transport.Conn) (transport.Conn, error) {
	t.Helper()
	return wiretest.Transport(t, dialling{dial: func(context.Context, transport.Address, transport.Address) (transport.Conn, error) {
		return conn, nil
	}}).Dial(t.Context(), transport.Address{}, transport.Address{})
}

// tcpPair is a connection over loopback.
func tcpPair(t *testing.T) (a, b *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	dialled, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dialled.Close() })
	t.Cleanup(func() { _ = accepted.Close() })
	return dialled.(*net.TCPConn), accepted.(*net.TCPConn)
}

func TestAddressesAndPeerSurviveTheWire(t *testing.T) {
	addr, bind := transport.Address{Addr: "::1", Port: 65535}, transport.Address{Addr: "/run/x", Port: 1}
	peer := transport.Peer{Network: "unix", Address: "/run/peer", Cred: &transport.Cred{PID: 7, UID: 1 << 31, GID: 9}}
	a, b := tcpPair(t)
	remote := wiretest.Transport(t, dialling{dial: func(_ context.Context, gotAddr, gotBind transport.Address) (transport.Conn, error) {
		if gotAddr != addr || gotBind != bind {
			t.Errorf("Dial %v from %v, want %v from %v", gotAddr, gotBind, addr, bind)
		}
		return transport.Conn{Socket: a, Peer: peer}, nil
	}})
	conn, err := remote.Dial(t.Context(), addr, bind)
	if err != nil {
		t.Fatal(err)
	}
	if c := conn.Peer.Cred; conn.Peer.Network != peer.Network || conn.Peer.Address != peer.Address || c == nil || *c != *peer.Cred {
		t.Errorf("peer %+v, want %+v", conn.Peer, peer)
	}
	// The plugin has let go: with our end closed, the other one reads its end.
	_ = conn.Socket.Close()
	if n, err := b.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("Read at the other end: %d, %v", n, err)
	}
}

func TestPeerAddressOfAnyBytesPasses(t *testing.T) {
	a, _ := tcpPair(t)
	conn, err := dial(t, transport.Conn{Socket: a, Peer: transport.Peer{Network: "unix", Address: "/run/\xff"}})
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Socket.Close()
	if conn.Peer.Address != "/run/?" {
		t.Errorf("peer %q", conn.Peer.Address)
	}
}

func TestSocketOptionsSurviveThePassing(t *testing.T) {
	options := []struct{ level, name, want int }{
		{unix.IPPROTO_TCP, unix.TCP_NODELAY, 0}, // Go's default is on
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 30},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 10},
		{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 3},
	}
	for _, nodelay := range []int{0, 1} {
		for _, keepalive := range []int{0, 1} {
			options[0].want, options[1].want = nodelay, keepalive
			a, _ := tcpPair(t)
			control(t, a, func(fd int) {
				for _, o := range options {
					if err := unix.SetsockoptInt(fd, o.level, o.name, o.want); err != nil {
						t.Error(err)
					}
				}
			})
			conn, err := dial(t, transport.Conn{Socket: a})
			if err != nil {
				t.Fatal(err)
			}
			control(t, conn.Socket, func(fd int) {
				for _, o := range options {
					if got, err := unix.GetsockoptInt(fd, o.level, o.name); got != o.want || err != nil {
						t.Errorf("option %d of level %d is %d, %v after the passing, was %d", o.name, o.level, got, err, o.want)
					}
				}
			})
			_ = conn.Socket.Close()
		}
	}
}

func control(t *testing.T, c net.Conn, f func(fd int)) {
	t.Helper()
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { f(int(fd)) }); err != nil {
		t.Fatal(err)
	}
}

// hidden is a connection that is no socket of the kernel's.
type hidden struct{ net.Conn }

func TestWhatIsNoStreamSocketIsRefused(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a, _ := tcpPair(t)
	datagrams, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(pair[1]) }()
	packets := os.NewFile(uintptr(pair[0]), "")
	plain, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		conn net.Conn
		want string
	}{
		"nothing":        {nil, "neither a socket nor an error"},
		"no socket":      {hidden{a}, "cannot be passed on"},
		"listener":       {asConn{what: listener.(*net.TCPListener)}, "no connected stream socket"},
		"datagrams":      {datagrams, "no connected stream socket"},
		"packets":        {asConn{what: packets}, "no connected stream socket"},
		"a regular file": {asConn{what: plain}, "no connected stream socket"},
	} {
		if _, err := dial(t, transport.Conn{Socket: c.conn}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error about %q", name, err, c.want)
		}
	}
}

// asConn passes for a connection and is something else.
type asConn struct {
	net.Conn
	what interface {
		syscall.Conn
		io.Closer
	}
}

func (c asConn) SyscallConn() (syscall.RawConn, error) { return c.what.SyscallConn() }
func (c asConn) Close() error                          { return c.what.Close() }

func TestDialErrorKeepsItsErrno(t *testing.T) {
	remote := wiretest.Transport(t, dialling{dial: func(context.Context, transport.Address, transport.Address) (transport.Conn, error) {
		return transport.Conn{}, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}})
	_, err := remote.Dial(t.Context(), transport.Address{}, transport.Address{})
	if !errors.Is(err, syscall.ECONNREFUSED) || !strings.Contains(err.Error(), "dial tcp") {
		t.Errorf("Dial: %v", err)
	}
	for _, addr := range []transport.Address{{Addr: "\xff"}} {
		if _, err := remote.Dial(t.Context(), addr, transport.Address{}); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("Dial %q: %v", addr, err)
		}
		if _, err := remote.Listen(t.Context(), addr); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("Listen at %q: %v", addr, err)
		}
	}
}

func TestConnectionThatWasDialledForNobodyIsClosed(t *testing.T) {
	a, b := tcpPair(t)
	entered := make(chan struct{})
	remote := wiretest.Transport(t, dialling{dial: func(ctx context.Context, _, _ transport.Address) (transport.Conn, error) {
		close(entered)
		<-ctx.Done() // a transport that does not look
		return transport.Conn{Socket: a}, nil
	}})
	ctx, cancel := context.WithCancel(t.Context())
	answer := async(func() error { _, err := remote.Dial(ctx, transport.Address{}, transport.Address{}); return err })
	within(t, "Dial in the transport", entered)
	cancel()
	if err := within(t, "Dial", answer); !errors.Is(err, context.Canceled) {
		t.Errorf("Dial: %v", err)
	}
	ended := async(func() error { _, err := b.Read(make([]byte, 1)); return err })
	if err := within(t, "end of the connection", ended); err == nil {
		t.Error("the connection is open")
	}
}

// unixTransport listens at Unix sockets, which is all that a listener's tests need.
type unixTransport struct {
	transport.Transport
	t *testing.T
}

type unixListener struct{ *net.UnixListener }

func (u unixTransport) Listen(_ context.Context, addr transport.Address) (transport.Listener, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: addr.Addr, Net: "unix"})
	if err != nil {
		return nil, err
	}
	u.t.Cleanup(func() { _ = l.Close() })
	return unixListener{l}, nil
}

func (l unixListener) Accept(context.Context) (transport.Conn, error) {
	c, err := l.AcceptUnix()
	if err != nil {
		return transport.Conn{}, err
	}
	return transport.Conn{Socket: c, Peer: transport.Peer{Network: "unix"}}, nil
}

func (l unixListener) Address() transport.Address {
	return transport.Address{Addr: l.Addr().String()}
}

func listen(t *testing.T) (*wiretest.Line, transport.Listener) {
	t.Helper()
	dir, err := os.MkdirTemp("", "wire")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	line := wiretest.New(t, wire.Served{Transport: unixTransport{t: t}})
	l, err := line.Client.Transport().Listen(t.Context(), transport.Address{Addr: filepath.Join(dir, "s")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return line, l
}

func TestConnectionsThatNobodyTookAreClosedWithTheListener(t *testing.T) {
	_, l := listen(t)
	var conns []net.Conn
	for range 3 {
		c, err := net.Dial("unix", l.Address().Addr)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	if err := l.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	for _, c := range conns {
		ended := async(func() error { _, err := c.Read(make([]byte, 1)); return err })
		if err := within(t, "end of a connection", ended); err == nil {
			t.Error("a connection is open")
		}
		_ = c.Close()
	}
	if _, err := l.Accept(t.Context()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

// lastMoment is a listener whose one connection comes in while it is closed.
type lastMoment struct {
	conn    transport.Conn
	entered chan struct{}
	closed  chan struct{}
}

func (l lastMoment) Listen(context.Context, transport.Address) (transport.Listener, error) {
	return l, nil
}

func (l lastMoment) Dial(context.Context, transport.Address, transport.Address) (transport.Conn, error) {
	return transport.Conn{}, errors.ErrUnsupported
}

func (l lastMoment) Accept(context.Context) (transport.Conn, error) {
	close(l.entered)
	<-l.closed
	return l.conn, nil
}

func (l lastMoment) Address() transport.Address { return transport.Address{} }

func (l lastMoment) Close() error {
	close(l.closed)
	return nil
}

func TestConnectionThatComesInAtTheLastMomentIsClosedAtOnce(t *testing.T) {
	a, b := tcpPair(t)
	last := lastMoment{transport.Conn{Socket: a}, make(chan struct{}), make(chan struct{})}
	l, err := wiretest.Transport(t, last).Listen(t.Context(), transport.Address{})
	if err != nil {
		t.Fatal(err)
	}
	within(t, "Accept in the transport", last.entered)
	if err := l.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	// Half of the time after which a descriptor that nobody wants is closed.
	if err := b.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the connection was not closed: %v", err)
	}
}

func TestDeadTransportIsToldOnceThenTheListenerIsClosed(t *testing.T) {
	line, l := listen(t)
	answer := async(func() error { _, err := l.Accept(t.Context()); return err })
	line.Cut()
	if err := within(t, "Accept", answer); !errors.Is(err, wire.ErrPluginGone) {
		t.Errorf("Accept: %v", err)
	}
	if _, err := l.Accept(t.Context()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("second Accept: %v", err)
	}
	if err := l.Close(); !errors.Is(err, wire.ErrPluginGone) {
		t.Errorf("Close: %v", err)
	}
}

func TestListenersAreBoundedAndUnknownOnesAreNotFound(t *testing.T) {
	line, _ := listen(t)
	client := transportv1.NewTransportClient(line.Conn)
	r, err := client.Accept(t.Context(), &transportv1.AcceptRequest{Listener: 999})
	if err != nil || !r.GetClosed() {
		t.Errorf("Accept of an unknown listener: %v, %v", r, err)
	}
	if _, err := client.CloseListener(t.Context(), &transportv1.CloseListenerRequest{Listener: 999}); err == nil {
		t.Error("an unknown listener can be closed")
	}
	if _, err := client.Listen(t.Context(), &transportv1.ListenRequest{Address: &transportv1.Address{Port: 65536}}); err == nil {
		t.Error("port 65536 is taken")
	}
}

// lying is a transport plugin that announces what it does not send.
type lying struct {
	transportv1.UnimplementedTransportServer
}

func (lying) Dial(context.Context, *transportv1.DialRequest) (*transportv1.DialResponse, error) {
	return &transportv1.DialResponse{Conn: &transportv1.Conn{Token: 5}}, nil
}

func (lying) Listen(context.Context, *transportv1.ListenRequest) (*transportv1.ListenResponse, error) {
	return &transportv1.ListenResponse{Address: &transportv1.Address{Port: 1 << 20}}, nil
}

func TestSocketThatDoesNotComeIsAnError(t *testing.T) {
	line := wiretest.Serve(t, func(g *grpc.Server, _ *wire.DescriptorChannel) {
		transportv1.RegisterTransportServer(g, lying{})
	})
	remote := line.Client.Transport()
	_ = line.Plugin.Close() // so that nothing has to be waited for
	if _, err := remote.Dial(t.Context(), transport.Address{}, transport.Address{}); !errors.Is(err, wire.ErrPluginGone) || !strings.Contains(err.Error(), "announced a socket") {
		t.Errorf("Dial: %v", err)
	}
	if _, err := remote.Listen(t.Context(), transport.Address{}); err == nil || !strings.Contains(err.Error(), "impossible address") {
		t.Errorf("Listen: %v", err)
	}
}

func TestTransportWithoutChannelSaysSo(t *testing.T) {
	a, _ := tcpPair(t)
	line := wiretest.Serve(t, func(g *grpc.Server, _ *wire.DescriptorChannel) {
		wire.Served{Transport: dialling{dial: func(context.Context, transport.Address, transport.Address) (transport.Conn, error) {
			return transport.Conn{Socket: a}, nil
		}}}.Register(g)
	})
	_, err := line.Client.Transport().Dial(t.Context(), transport.Address{}, transport.Address{})
	if err == nil || !strings.Contains(err.Error(), "without a descriptor channel") {
		t.Errorf("Dial: %v", err)
	}
}
