// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"sync"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// intake reads requests off the socket: whatever has arrived with one system
// call, be it the headers of a thousand requests.
//
// It has memory only while there is something in it, so that idle connections
// cost none.
type intake struct {
	socket *socket
	buffer *[intakeSize]byte // nil if there is nothing from r to w
	r, w   int

	payload []byte // of a write, being read
	ahead   int    // how many bytes to read besides what is wanted
	vectors [2]unix.Iovec

	// The two functions of socket.readInto, made once.
	place func() []unix.Iovec
	empty func()
}

const (
	// intakeSize is enough for the requests of one moment.
	intakeSize = 128 << 10
	// longPayload is the length in bytes from which on payloads bypass the
	// buffer: to copy them a second time would cost more than it saves in system
	// calls. Behind one, only a header is read ahead, since another may follow.
	longPayload = 16 << 10
)

var intakes = sync.Pool{New: func() any { return new([intakeSize]byte) }}

// newIntake makes an intake that begins with what the handshake has read too
// much.
func newIntake(s *socket, ahead []byte) *intake {
	in := &intake{socket: s, ahead: intakeSize}
	in.place, in.empty = in.room, in.release
	if len(ahead) > 0 {
		in.buffer = intakes.Get().(*[intakeSize]byte)
		in.w = copy(in.buffer[:], ahead)
	}
	return in
}

// buffered is how many bytes are at hand.
func (in *intake) buffered() int { return in.w - in.r }

// next waits for a request's header and returns its bytes, which are taken off
// with skip. If the stream ends before, it returns what there was.
//
// soon says that the client is expected to send a request at once.
func (in *intake) next(soon bool) ([]byte, error) {
	for in.buffered() < nbd.RequestSize {
		if err := in.fill(soon && in.buffered() == 0); err != nil {
			return in.bytes(in.buffered()), err
		}
	}
	return in.bytes(nbd.RequestSize), nil
}

func (in *intake) bytes(n int) []byte {
	if n == 0 {
		return nil
	}
	return in.buffer[in.r : in.r+n]
}

// skip takes n bytes off that are at hand.
func (in *intake) skip(n int) { in.r += n }

// read waits until p is full.
func (in *intake) read(p []byte) error {
	in.ahead = intakeSize
	if len(p) >= longPayload {
		in.ahead = nbd.RequestSize
	}
	for {
		n := copy(p, in.bytes(min(len(p), in.buffered())))
		in.skip(n)
		if p = p[n:]; len(p) == 0 {
			return nil
		}
		// Nothing is at hand, so the socket may fill p itself, and the buffer
		// with what follows.
		in.payload = p
		n, err := in.socket.readInto(in.place, in.empty, false)
		in.payload = nil
		if err != nil {
			return err
		}
		if n > len(p) {
			in.w = n - len(p)
			n = len(p)
		}
		if p = p[n:]; len(p) == 0 {
			return nil
		}
	}
}

// discard waits for n bytes and forgets them.
func (in *intake) discard(n int64) error {
	for n > 0 {
		if in.buffered() == 0 {
			if err := in.fill(false); err != nil {
				return err
			}
		}
		have := min(n, int64(in.buffered()))
		in.skip(int(have))
		n -= have
	}
	return nil
}

// fill reads more into the buffer.
func (in *intake) fill(soon bool) error {
	n, err := in.socket.readInto(in.place, in.empty, soon)
	if err == nil {
		in.w += n
	}
	return err
}

// room is where the socket reads to: the payload, and the buffer behind what is in
// it.
func (in *intake) room() []unix.Iovec {
	if in.buffer == nil {
		in.buffer = intakes.Get().(*[intakeSize]byte)
	}
	if in.r > 0 { // at most a part of a header is moved
		in.w = copy(in.buffer[:], in.buffer[in.r:in.w])
		in.r = 0
	}
	vectors := in.vectors[:0]
	if len(in.payload) > 0 {
		vectors = append(vectors, vector(in.payload))
	}
	return append(vectors, vector(in.buffer[in.w:min(in.w+in.ahead, intakeSize)]))
}

// release gives the buffer back if there is nothing in it.
func (in *intake) release() {
	if in.buffer != nil && in.buffered() == 0 {
		intakes.Put(in.buffer)
		in.buffer, in.r, in.w = nil, 0, 0
	}
}
