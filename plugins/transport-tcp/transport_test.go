// SPDX-License-Identifier: GPL-3.0-or-later

package tcp

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/sdk/transport"
)

// deadline bounds whatever a test waits for.
const deadline = 10 * time.Second

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	t.Cleanup(cancel)
	return ctx
}

func mustListen(t *testing.T, addr string) transport.Listener {
	t.Helper()
	l, err := New().Listen(within(t), transport.Address{Addr: addr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// connection dials addr at l's port and accepts.
func connection(t *testing.T, l transport.Listener, addr string) (dialled, accepted transport.Conn) {
	t.Helper()
	dialled, err := New().Dial(within(t), transport.Address{Addr: addr, Port: l.Address().Port}, transport.Address{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dialled.Socket.Close() })
	accepted, err = l.Accept(within(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = accepted.Socket.Close() })
	return dialled, accepted
}

func sockopt(t *testing.T, socket syscall.Conn, level, option int) int {
	t.Helper()
	raw, err := socket.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var value int
	var failure error
	if err := raw.Control(func(fd uintptr) {
		value, failure = unix.GetsockoptInt(int(fd), level, option)
	}); err != nil || failure != nil {
		t.Fatalf("getsockopt: %v, %v", err, failure)
	}
	return value
}

func TestSocketsAreTunedForRequestsAndReplies(t *testing.T) {
	for _, addr := range []string{"127.0.0.1", "::1"} {
		dialled, accepted := connection(t, mustListen(t, addr), addr)
		for side, conn := range map[string]transport.Conn{"dialled": dialled, "accepted": accepted} {
			for _, option := range []struct {
				name          string
				level, option int
				want          int
			}{
				{"TCP_NODELAY", unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
				{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
				{"TCP_KEEPIDLE", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 30},
				{"TCP_KEEPINTVL", unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 10},
				{"TCP_KEEPCNT", unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 3},
				{"SO_PROTOCOL", unix.SOL_SOCKET, unix.SO_PROTOCOL, unix.IPPROTO_TCP},
			} {
				got := sockopt(t, conn.Socket.(*net.TCPConn), option.level, option.option)
				if got != option.want {
					t.Errorf("%s, %s socket: %s is %d, want %d", addr, side, option.name, got, option.want)
				}
			}
		}
	}
}

func TestListenerIsPlainTCP(t *testing.T) {
	socket, err := listen(within(t), transport.Address{Addr: "127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = socket.Close() }()
	if got := sockopt(t, socket, unix.SOL_SOCKET, unix.SO_PROTOCOL); got != unix.IPPROTO_TCP {
		t.Errorf("the listener's protocol is %d, want %d", got, unix.IPPROTO_TCP)
	}
	if got := sockopt(t, socket, unix.SOL_SOCKET, unix.SO_REUSEADDR); got != 1 {
		t.Errorf("SO_REUSEADDR is %d, want 1", got)
	}
}

func TestDoubleColonTakesBothFamilies(t *testing.T) {
	l := mustListen(t, "::")
	dialled, accepted := connection(t, l, "127.0.0.1")
	want := strings.Replace(dialled.Socket.LocalAddr().String(), "127.0.0.1", "[::ffff:127.0.0.1]", 1)
	if accepted.Peer.Address != want {
		t.Errorf("the IPv4 peer is named %q, want %q", accepted.Peer.Address, want)
	}
	dialled, accepted = connection(t, l, "::1")
	if want := dialled.Socket.LocalAddr().String(); accepted.Peer.Address != want {
		t.Errorf("the IPv6 peer is named %q, want %q", accepted.Peer.Address, want)
	}
}

func TestFourZeroesTakeIPv4Only(t *testing.T) {
	l := mustListen(t, "0.0.0.0")
	_, accepted := connection(t, l, "127.0.0.1")
	if !strings.HasPrefix(accepted.Peer.Address, "127.0.0.1:") {
		t.Errorf("the peer is named %q", accepted.Peer.Address)
	}
	if got := l.Address().Addr; got != "0.0.0.0" {
		t.Errorf("Address reports %q", got)
	}
	socket, err := listen(within(t), transport.Address{Addr: "0.0.0.0"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = socket.Close() }()
	if got := sockopt(t, socket, unix.SOL_SOCKET, unix.SO_DOMAIN); got != unix.AF_INET {
		t.Errorf("the socket's family is %d, want AF_INET", got)
	}
}

func TestMappedAddressIsListenedAtAsIPv4(t *testing.T) {
	if got := mustListen(t, "::ffff:127.0.0.1").Address().Addr; got != "127.0.0.1" {
		t.Errorf("Address reports %q, want 127.0.0.1", got)
	}
}

// TestLinkLocalAddressWorksWithItsInterface goes through what this machine has
// of such addresses.
func TestLinkLocalAddressWorksWithItsInterface(t *testing.T) {
	for _, addr := range linkLocals(t) {
		l := mustListen(t, addr)
		if got := l.Address().Addr; got != addr {
			t.Errorf("Address reports %q, want %q", got, addr)
		}
		_, accepted := connection(t, l, addr)
		if peer := netip.MustParseAddrPort(accepted.Peer.Address); peer.Addr().String() != addr {
			t.Errorf("the peer is named %q, want address %s", accepted.Peer.Address, addr)
		}
	}
}

func linkLocals(t *testing.T) []string {
	interfaces, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, i := range interfaces {
		if i.Flags&net.FlagRunning == 0 {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range addrs {
			ip := a.(*net.IPNet).IP
			if ip.To4() == nil && ip.IsLinkLocalUnicast() {
				found = append(found, ip.String()+"%"+i.Name)
			}
		}
	}
	return found
}

func TestBindNameFollowsTargetFamily(t *testing.T) {
	l := mustListen(t, "127.0.0.1")
	conn, err := New().Dial(within(t), l.Address(), transport.Address{Addr: "localhost"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Socket.Close()
	if got := conn.Socket.LocalAddr().(*net.TCPAddr).AddrPort().Addr(); !got.Is4() || !got.IsLoopback() {
		t.Errorf("dialled from %s, want an IPv4 loopback address", got)
	}
}

func TestBindPortIsUsed(t *testing.T) {
	// A port that was free a moment ago.
	former := mustListen(t, "127.0.0.2")
	bind := former.Address()
	if err := former.Close(); err != nil {
		t.Fatal(err)
	}
	l := mustListen(t, "127.0.0.1")
	conn, err := New().Dial(within(t), l.Address(), bind)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Socket.Close()
	if got := conn.Socket.LocalAddr().String(); got != bind.String() {
		t.Errorf("dialled from %s, want %s", got, bind)
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
