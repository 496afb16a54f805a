// SPDX-License-Identifier: Apache-2.0

package transporttest

import (
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/flexnbd/flexnbd/sdk/transport"
)

// UnresponsiveTCP returns an address on the loopback interface that answers no
// connection request until the test ends: a listener whose queue is full, so
// that the kernel drops what arrives. It is a [Subject]'s Unresponsive for
// transports over TCP.
func UnresponsiveTCP(tb testing.TB) transport.Address {
	tb.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		tb.Fatalf("socket: %v", err)
	}
	tb.Cleanup(func() { _ = syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		tb.Fatalf("bind: %v", err)
	}
	// A backlog of 0 holds one connection on Linux.
	if err := syscall.Listen(fd, 0); err != nil {
		tb.Fatalf("listen: %v", err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		tb.Fatalf("getsockname: %v", err)
	}
	at := transport.Address{Addr: "127.0.0.1", Port: uint16(name.(*syscall.SockaddrInet4).Port)}
	if err := fillBacklog(tb, at); err != nil {
		tb.Fatal(err)
	}
	return at
}

// fillBacklog connects until a connection request stays without an answer.
func fillBacklog(tb testing.TB, at transport.Address) error {
	const enough = 16
	for range enough {
		conn, err := net.DialTimeout("tcp", at.String(), 200*time.Millisecond)
		if os.IsTimeout(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("fill the backlog of %s: %w", at, err)
		}
		tb.Cleanup(func() { _ = conn.Close() })
	}
	return fmt.Errorf("%s still takes connections after %d", at, enough)
}
