// SPDX-License-Identifier: GPL-3.0-or-later

package tcp

import (
	"context"
	"errors"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/sdk/transport"
)

// foreign is an address that documentation has, and no machine.
const foreign = "198.51.100.7"

// wants checks an error's text, word for word in parts, and its cause.
func wants(t *testing.T, err, cause error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Error("no error")
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error does not say %q: %v", part, err)
		}
	}
	if cause != nil && !errors.Is(err, cause) {
		t.Errorf("the error does not wrap %v: %#v", cause, err)
	}
}

func TestListenErrorsSayWhatToDo(t *testing.T) {
	taken := mustListen(t, "127.0.0.1").Address()
	for name, c := range map[string]struct {
		addr  transport.Address
		cause error
		says  []string
	}{
		"in use": {taken, syscall.EADDRINUSE,
			[]string{"listen on " + taken.String(), "already in use by another program; choose another --port or stop that program"}},
		"in use, by name": {transport.Address{Addr: "localhost", Port: taken.Port}, syscall.EADDRINUSE,
			[]string{"listen on localhost:", taken.String() + " is already in use"}},
		"not ours": {transport.Address{Addr: foreign, Port: 4777}, syscall.EADDRNOTAVAIL,
			[]string{foreign + " is not an address of this machine", "0.0.0.0"}},
		"empty": {transport.Address{Port: 4777}, nil,
			[]string{"no address is given", "0.0.0.0", "::"}},
		"brackets":     {transport.Address{Addr: "[::1]"}, nil, []string{"without brackets"}},
		"with port":    {transport.Address{Addr: "127.0.0.1:4777"}, nil, []string{"neither an IP address nor a host name"}},
		"slip":         {transport.Address{Addr: "127.0.0.300"}, nil, []string{`"127.0.0.300"`, "neither"}},
		"no interface": {transport.Address{Addr: "fe80::1"}, nil, []string{"link-local", "fe80::1%eth0"}},
		"unknown interface": {transport.Address{Addr: "fe80::1%nosuch0"}, syscall.EINVAL,
			[]string{"interface nosuch0 does not exist"}},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := New().Listen(within(t), c.addr)
			if err == nil {
				_ = l.Close()
			}
			wants(t, err, c.cause, c.says...)
		})
	}
}

func TestDialErrorsSayWhatToDo(t *testing.T) {
	server := mustListen(t, "127.0.0.1").Address()
	former := mustListen(t, "127.0.0.1")
	closed := former.Address()
	if err := former.Close(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		addr, bind transport.Address
		cause      error
		says       []string
	}{
		"refused": {closed, transport.Address{}, syscall.ECONNREFUSED,
			[]string{"connect to " + closed.String() + ": connection refused", "nothing listens there"}},
		"refused, with bind": {closed, transport.Address{Addr: "127.0.0.2"}, syscall.ECONNREFUSED,
			[]string{"connect to " + closed.String() + " from 127.0.0.2: connection refused"}},
		"refused, by name": {transport.Address{Addr: "localhost", Port: closed.Port}, transport.Address{Addr: "127.0.0.1"}, syscall.ECONNREFUSED,
			[]string{"connect to localhost:", "tried " + closed.String()}},
		"bind not ours": {server, transport.Address{Addr: foreign}, syscall.EADDRNOTAVAIL,
			[]string{server.String(), "bind address " + foreign + " is not an address of this machine"}},
		"bind in use": {server, server, syscall.EADDRINUSE,
			[]string{"from " + server.String(), "already in use", "leave the port out"}},
		"bind of the other family": {server, transport.Address{Addr: "::1"}, nil,
			[]string{"bind address ::1 is IPv6 and the target is IPv4"}},
		"bad bind":   {server, transport.Address{Addr: "[::1]"}, nil, []string{"bad bind address", "without brackets"}},
		"empty bind": {server, transport.Address{Port: 1}, nil, []string{"bad bind address", "no address is given"}},
		"empty":      {transport.Address{Port: 4777}, transport.Address{}, nil, []string{"no address is given"}},
		"port 0":     {transport.Address{Addr: "127.0.0.1"}, transport.Address{}, nil, []string{"port 0 cannot be dialled"}},
		"broadcast": {transport.Address{Addr: "255.255.255.255", Port: 1}, transport.Address{}, syscall.ENETUNREACH,
			[]string{"255.255.255.255:1", "network is unreachable", "routes"}},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := New().Dial(within(t), c.addr, c.bind)
			if err == nil {
				_ = conn.Socket.Close()
			}
			wants(t, err, c.cause, c.says...)
		})
	}
}

// TestUnknownHostNameIsNamed asks a resolver that cannot be reached, so that
// no name server outside has a say in it.
func TestUnknownHostNameIsNamed(t *testing.T) {
	unreachable := errors.New("no name server in this test")
	defer func(r *net.Resolver) { net.DefaultResolver = r }(net.DefaultResolver)
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, unreachable
	}}
	addr := transport.Address{Addr: "disk-7.example.invalid", Port: 4777}
	says := []string{addr.String(), "the host name disk-7.example.invalid cannot be resolved", "write an IP address"}

	_, err := New().Listen(within(t), addr)
	wants(t, err, nil, says...)
	_, err = New().Dial(within(t), addr, transport.Address{})
	wants(t, err, nil, says...)
	_, err = New().Dial(within(t), transport.Address{Addr: "127.0.0.1", Port: 1}, addr)
	wants(t, err, nil, "bad bind address", says[1])
}

func TestEndedContextIsTheErrorOfListenAndDial(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, addr := range []string{"127.0.0.1", "localhost"} {
		at := transport.Address{Addr: addr, Port: 4777}
		_, err := New().Listen(ctx, at)
		wants(t, err, context.Canceled, at.String())
		_, err = New().Dial(ctx, at, transport.Address{})
		wants(t, err, context.Canceled, at.String())
	}
}

// TestPrivilegedPortNeedsPermission listens without CAP_NET_BIND_SERVICE. Where
// the kernel reserves no ports, as in most containers, it must succeed.
func TestPrivilegedPortNeedsPermission(t *testing.T) {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	if err != nil {
		t.Fatal(err)
	}
	first, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	const port = 987
	ctx := within(t)
	failure := make(chan error)
	go func() {
		// The thread has lost its capability and ends with the goroutine.
		runtime.LockOSThread()
		err := dropBindService()
		if err == nil {
			var l transport.Listener
			if l, err = New().Listen(ctx, transport.Address{Addr: "127.0.0.1", Port: port}); err == nil {
				_ = l.Close()
			}
		}
		failure <- err
	}()
	err = <-failure
	if port >= first {
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	wants(t, err, syscall.EACCES, "127.0.0.1:987", "reserved for privileged programs", "CAP_NET_BIND_SERVICE")
}

func dropBindService() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return err
	}
	sets[0].Effective &^= 1 << unix.CAP_NET_BIND_SERVICE
	return unix.Capset(&header, &sets[0])
}

// TestEveryExpectedErrnoHasASentence covers what a test cannot bring about on
// every machine.
func TestEveryExpectedErrnoHasASentence(t *testing.T) {
	addr := transport.Address{Addr: "192.0.2.1", Port: 4777}
	bind := transport.Address{Addr: "192.0.2.2", Port: 80}
	for _, c := range []struct {
		call  string
		errno syscall.Errno
		says  string
	}{
		{"connect", syscall.EHOSTUNREACH, "no route to host: check the address"},
		{"connect", syscall.ETIMEDOUT, "no answer: the machine is down"},
		{"connect", syscall.EADDRNOTAVAIL, "no free local port"},
		{"connect", syscall.EPROTOTYPE, syscall.EPROTOTYPE.Error()},
		{"bind", syscall.EACCES, "bind port 80 is reserved"},
		{"bind", syscall.EINVAL, "bind address 192.0.2.2 cannot be used: invalid argument"},
	} {
		err := &net.OpError{Op: "dial", Net: "tcp", Addr: &net.TCPAddr{IP: net.ParseIP(addr.Addr), Port: 4777}, Err: os.NewSyscallError(c.call, c.errno)}
		wants(t, explainDial(t.Context(), addr, bind, err), c.errno, "connect to 192.0.2.1:4777 from 192.0.2.2:80: "+c.says)
	}
	h, err := parseHost("2001:db8::1")
	if err != nil {
		t.Fatal(err)
	}
	noIPv6 := &net.OpError{Op: "listen", Err: os.NewSyscallError("socket", syscall.EAFNOSUPPORT)}
	wants(t, explainListen(t.Context(), addr, h.ip, noIPv6), syscall.EAFNOSUPPORT, "this machine has no IPv6")
}
