// SPDX-License-Identifier: GPL-3.0-or-later

package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// socket is a connected, blocking stream socket outside of Go's poller.
type socket struct {
	fd int
}

// silence is how long a server may say nothing while requests are in flight.
const silence = 30 * time.Second

// dial connects to a TCP address.
func dial(ctx context.Context, address string) (*socket, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return takeSocket(conn.(*net.TCPConn)) // sets NODELAY by default
}

// takeSocket duplicates the connection's descriptor and makes it a blocking one. The
// connection itself is of no use afterwards, and may be closed.
func takeSocket(conn syscall.Conn) (*socket, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &socket{fd: -1}
	controlErr := raw.Control(func(fd uintptr) {
		if s.fd, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0); err == nil {
			err = s.block()
		}
	})
	if err := errors.Join(controlErr, err); err != nil {
		if s.fd >= 0 {
			s.close()
		}
		return nil, fmt.Errorf("make the socket a blocking one: %w", err)
	}
	return s, nil
}

func (s *socket) block() error {
	if err := unix.SetNonblock(s.fd, false); err != nil {
		return err
	}
	limit := unix.NsecToTimeval(silence.Nanoseconds())
	return errors.Join(
		unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit),
		unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit),
	)
}

// Read implements io.Reader. It waits for the first byte only.
func (s *socket) Read(p []byte) (int, error) {
	for {
		n, err := unix.Read(s.fd, p)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return 0, fmt.Errorf("the server has not answered for %v", silence)
		case err != nil:
			return 0, fmt.Errorf("receive: %w", err)
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

// Write implements io.Writer.
func (s *socket) Write(p []byte) (done int, err error) {
	for done < len(p) {
		n, err := unix.Write(s.fd, p[done:])
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return done, fmt.Errorf("send: %w", err)
		default:
			done += n
		}
	}
	return done, nil
}

// send hands over what the socket takes without waiting, and returns how many bytes
// that was.
func (s *socket) send(pieces []unix.Iovec) (int, error) {
	message := unix.Msghdr{Iov: &pieces[0]}
	message.SetIovlen(len(pieces))
	for {
		n, _, errno := unix.Syscall(unix.SYS_SENDMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&message)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		case unix.EAGAIN:
			return 0, nil
		default:
			return 0, fmt.Errorf("send: %w", errno)
		}
	}
}

// await waits until there is something to read, which it reports, or room to write.
func (s *socket) await() (readable bool, err error) {
	events := [1]unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN | unix.POLLOUT}}
	for {
		n, err := unix.Poll(events[:], int(silence.Milliseconds()))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return false, fmt.Errorf("poll: %w", err)
		case n == 0:
			return false, fmt.Errorf("the server has neither read nor written for %v", silence)
		default:
			return events[0].Revents&^unix.POLLOUT != 0, nil
		}
	}
}

// cut ends both directions, so that whoever waits on the socket returns.
func (s *socket) cut() { _ = unix.Shutdown(s.fd, unix.SHUT_RDWR) }

func (s *socket) close() { _ = unix.Close(s.fd) }
