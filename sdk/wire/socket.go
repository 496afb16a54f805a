// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// tcpOptions are the socket options that a transport sets and that net.FileConn
// overwrites with Go's own defaults.
var tcpOptions = []struct{ level, name int }{
	{unix.IPPROTO_TCP, unix.TCP_NODELAY},
	{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE},
	{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL},
	{unix.IPPROTO_TCP, unix.TCP_KEEPCNT},
	{unix.SOL_SOCKET, unix.SO_KEEPALIVE},
}

// connFromFile makes a connection from a received socket and closes f. The
// socket's options stay as the transport left them.
func connFromFile(f *os.File) (net.Conn, error) {
	defer func() { _ = f.Close() }()
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	values := make([]int, len(tcpOptions))
	tcp, stream := false, false
	err = raw.Control(func(fd uintptr) {
		kind, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TYPE)
		listens, _ := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
		stream = err == nil && kind == unix.SOCK_STREAM && listens == 0
		domain, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DOMAIN)
		tcp = err == nil && (domain == unix.AF_INET || domain == unix.AF_INET6)
		for i, o := range tcpOptions {
			values[i], _ = unix.GetsockoptInt(int(fd), o.level, o.name)
		}
	})
	if err != nil {
		return nil, err
	}
	if !stream {
		return nil, errors.New("the transport handed over something that is no connected stream socket")
	}
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("cannot take the socket that the transport handed over: %w", err)
	}
	if sc, ok := conn.(syscall.Conn); ok && tcp {
		if raw, err := sc.SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) {
				for i, o := range tcpOptions {
					_ = unix.SetsockoptInt(int(fd), o.level, o.name, values[i])
				}
			})
		}
	}
	switch conn.(type) {
	case *net.TCPConn, *net.UnixConn:
		return conn, nil
	}
	_ = conn.Close()
	return nil, fmt.Errorf("the transport handed over a %T, which is neither TCP nor a Unix socket", conn)
}
