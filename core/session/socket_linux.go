// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"errors"
	"io"
	"net"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// socket is the client's connection in the transmission phase. What net.Conn does
// not have is sending without waiting, sendfile with an offset, and reading into
// two places at once; RawConn lends the descriptor for that, and waits.
//
// One goroutine may read while another sends.
type socket struct {
	net.Conn
	raw syscall.RawConn // nil for a connection without a descriptor, which can only wait

	reading readCall
	sending sendCall
}

// errWouldWait says that nothing was sent, since that would have meant waiting.
var errWouldWait = errors.New("the socket is full")

func newSocket(conn net.Conn) *socket {
	s := &socket{Conn: conn}
	if c, ok := conn.(syscall.Conn); ok {
		s.raw, _ = c.SyscallConn()
	}
	// Made once, or each call would allocate its function anew.
	s.reading.do = s.reading.run
	s.sending.do = s.sending.run
	return s
}

// readCall is one read.
type readCall struct {
	do    func(fd uintptr) bool
	place func() []unix.Iovec // where to
	empty func()              // called before waiting: what place gave is not needed
	n     int
	err   error

	soon      bool // the client is expected to send something at once
	attention attention
}

// readInto waits for data and reads it into what place returns, which is asked for
// only once there may be some. Before waiting it calls empty. It returns how much
// it read; the end of the stream is [io.EOF]. soon says that something is expected at
// once.
func (s *socket) readInto(place func() []unix.Iovec, empty func(), soon bool) (int, error) {
	if s.raw == nil {
		vectors := place()
		return s.Read(bytesOf(vectors[0]))
	}
	c := &s.reading
	c.place, c.empty, c.soon = place, empty, soon
	if err := s.raw.Read(c.do); err != nil {
		return 0, err
	}
	if c.n == 0 && c.err == nil {
		return 0, io.EOF
	}
	return c.n, c.err
}

// run is what RawConn calls until it returns true, waiting in between.
func (c *readCall) run(fd uintptr) bool {
	if c.soon {
		c.soon = false
		if c.attention.wait(c, fd) {
			return true
		}
	}
	vectors := c.place()
	for {
		n, _, errno := unix.Syscall(unix.SYS_READV, fd, uintptr(unsafe.Pointer(&vectors[0])), uintptr(len(vectors)))
		switch errno {
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			c.empty()
			return false
		}
		c.ended(int(n), errno)
		return true
	}
}

// ended notes what a system call returned.
func (c *readCall) ended(n int, errno unix.Errno) {
	c.n, c.err = n, nil
	if errno != 0 {
		c.n, c.err = 0, errno
	}
}

// sendCall is one call of sendmsg or sendfile.
type sendCall struct {
	do      func(fd uintptr) bool
	wait    bool
	message unix.Msghdr
	flags   int
	file    int // or -1 for message
	offset  int64
	count   int
	n       int
	err     error
}

// send sends the vectors, or a part of them, and returns how many bytes that
// were. With more, something else follows at once.
func (s *socket) send(vectors []unix.Iovec, more, wait bool) (int, error) {
	if s.raw == nil {
		if !wait {
			return 0, errWouldWait
		}
		return s.Write(bytesOf(vectors[0]))
	}
	c := &s.sending
	c.file, c.wait, c.flags = -1, wait, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL
	if more {
		c.flags |= unix.MSG_MORE
	}
	c.message = unix.Msghdr{Iov: &vectors[0]}
	c.message.SetIovlen(len(vectors))
	return s.call(c)
}

// sendFile sends count bytes at offset of a file, or a part of them, without
// copying them.
func (s *socket) sendFile(file int, offset int64, count int, wait bool) (int, error) {
	if s.raw == nil {
		return 0, errors.ErrUnsupported
	}
	c := &s.sending
	c.file, c.wait, c.offset, c.count = file, wait, offset, count
	return s.call(c)
}

func (s *socket) call(c *sendCall) (int, error) {
	if err := s.raw.Write(c.do); err != nil {
		return 0, err
	}
	c.message.Iov = nil // or it keeps the payload alive
	return c.n, c.err
}

// run is what RawConn calls until it returns true, waiting in between.
func (c *sendCall) run(fd uintptr) bool {
	for {
		c.n, c.err = c.once(int(fd))
		switch {
		case c.err == nil:
			return true
		case errors.Is(c.err, unix.EINTR):
			continue
		case errors.Is(c.err, unix.EAGAIN):
			c.err = errWouldWait
			return !c.wait
		}
		return true
	}
}

func (c *sendCall) once(fd int) (int, error) {
	if c.file >= 0 {
		return unix.Sendfile(fd, c.file, &c.offset, c.count)
	}
	n, _, errno := unix.Syscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&c.message)), uintptr(c.flags))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// limitWrites makes sending fail from d on. 0 takes the limit away.
func (s *socket) limitWrites(d time.Duration) {
	var at time.Time
	if d > 0 {
		at = time.Now().Add(d)
	}
	_ = s.SetWriteDeadline(at)
}

// vector points at b, which must not be empty.
func vector(b []byte) unix.Iovec {
	v := unix.Iovec{Base: &b[0]}
	v.SetLen(len(b))
	return v
}

func bytesOf(v unix.Iovec) []byte { return unsafe.Slice(v.Base, v.Len) }
