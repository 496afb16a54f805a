// SPDX-License-Identifier: GPL-3.0-or-later

package client

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// peerTimeout is how long a peer may acknowledge nothing before the kernel gives the
// connection up: data that was sent (TCP_USER_TIMEOUT), or probes of an idle
// connection.
const peerTimeout = 10 * time.Second

// tcpOptions are set on every TCP socket. A socket that came through a descriptor,
// as those of transports do, has Go's own settings no longer.
var tcpOptions = []struct{ level, name, value int }{
	{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
	{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(peerTimeout / time.Millisecond)},
	{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 4}, // seconds; then a probe every 2
	{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 2},
	{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 3},
	{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
}

// tune sets tcpOptions on conn if it is a TCP socket. Options that the kernel
// refuses are left as they are: time-outs of our own stand behind them.
func tune(conn net.Conn) {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return // closed; the first read says so
	}
	_ = raw.Control(func(fd uintptr) {
		protocol, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PROTOCOL)
		if err != nil || protocol != unix.IPPROTO_TCP && protocol != unix.IPPROTO_MPTCP {
			return
		}
		for _, o := range tcpOptions {
			_ = unix.SetsockoptInt(int(fd), o.level, o.name, o.value)
		}
	})
}
