// SPDX-License-Identifier: GPL-3.0-or-later

package client

import (
	"net"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestPipelineTunesTCPSockets(t *testing.T) {
	near, far := sockets(t, "tcp")
	defer far.Close()
	// As a socket that a transport has passed on as a descriptor.
	file, err := near.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	near.Close()
	conn, err := net.FileConn(file)
	file.Close()
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.(*net.TCPConn).SetNoDelay(false)
	_ = conn.(*net.TCPConn).SetKeepAlive(false)
	p := (&Client{conn: conn}).Pipeline(PipelineOptions{})
	defer p.Close()
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		for _, o := range []struct {
			name              string
			level, opt, value int
		}{
			{"TCP_NODELAY", unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
			{"TCP_USER_TIMEOUT", unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 10000},
			{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
			{"TCP_KEEPIDLE", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 4},
		} {
			if got, err := unix.GetsockoptInt(int(fd), o.level, o.opt); got != o.value || err != nil {
				t.Errorf("%s is %d, %v", o.name, got, err)
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
}

func TestOtherSocketsAreLeftAlone(t *testing.T) {
	near, far := sockets(t, "unix")
	defer far.Close()
	defer near.Close()
	tune(near)
	raw, err := near.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) {
		if got, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_KEEPALIVE); got != 0 || err != nil {
			t.Errorf("SO_KEEPALIVE is %d, %v", got, err)
		}
	})
}
