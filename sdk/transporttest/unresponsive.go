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
	deaf, err := ListenDeaf()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(deaf.Close)
	return deaf.Address
}

// Deaf is a listener on the loopback interface that answers no connection request:
// [UnresponsiveTCP] for those who have no test.
type Deaf struct {
	Address transport.Address

	fd      int
	waiting []net.Conn // these fill its queue
}

// ListenDeaf makes one. Close it.
func ListenDeaf() (*Deaf, error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	d := &Deaf{fd: fd}
	if err := d.listen(); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

func (d *Deaf) listen() error {
	if err := syscall.Bind(d.fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	// A backlog of 0 holds one connection on Linux.
	if err := syscall.Listen(d.fd, 0); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	name, err := syscall.Getsockname(d.fd)
	if err != nil {
		return fmt.Errorf("getsockname: %w", err)
	}
	d.Address = transport.Address{Addr: "127.0.0.1", Port: uint16(name.(*syscall.SockaddrInet4).Port)}
	return d.fill()
}

// fill connects until a connection request stays without an answer.
func (d *Deaf) fill() error {
	const enough = 16
	for range enough {
		conn, err := net.DialTimeout("tcp", d.Address.String(), 200*time.Millisecond)
		if os.IsTimeout(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("fill the backlog of %s: %w", d.Address, err)
		}
		d.waiting = append(d.waiting, conn)
	}
	return fmt.Errorf("%s still takes connections after %d", d.Address, enough)
}

// Close lets go of the address.
func (d *Deaf) Close() {
	for _, conn := range d.waiting {
		_ = conn.Close()
	}
	_ = syscall.Close(d.fd)
}
