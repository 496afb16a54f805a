// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"encoding/binary"
	"fmt"
	"syscall"

	"github.com/flexnbd/flexnbd/sdk/store"
)

// Sizes of the messages, in bytes.
const (
	RequestSize    = 32
	CompletionSize = 16
)

// MaxInFlight is how many requests of one ring may be without their completion.
const MaxInFlight = 256

// MaxMemory is the most memory, in bytes, that one ring may have: what a payload's
// place can name.
const MaxMemory = 1 << 30

// Op is what a request does.
type Op uint16

// The operations of the lane.
const (
	OpRead  Op = iota + 1 // fill the payload
	OpWrite               // store the payload
	OpZero                // punch a hole
	OpPing                // nothing; answered at once
)

// String returns the operation's name in lower case.
func (o Op) String() string {
	switch o {
	case OpRead:
		return "read"
	case OpWrite:
		return "write"
	case OpZero:
		return "zero"
	case OpPing:
		return "ping"
	}
	return fmt.Sprintf("operation %d", uint16(o))
}

// Request is one request, as it travels.
type Request struct {
	Cookie  uint64
	Offset  int64  // on the disk
	Length  uint32 // in bytes
	Payload uint32 // where in the memory the bytes of a read or write lie
	Op      Op
	Flags   store.Flags // the lower 16 bits
}

// Append appends the request's message.
func (r Request) Append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, r.Cookie)
	b = binary.LittleEndian.AppendUint64(b, uint64(r.Offset))
	b = binary.LittleEndian.AppendUint32(b, r.Length)
	b = binary.LittleEndian.AppendUint32(b, r.Payload)
	b = binary.LittleEndian.AppendUint16(b, uint16(r.Op))
	b = binary.LittleEndian.AppendUint16(b, uint16(r.Flags))
	return binary.LittleEndian.AppendUint32(b, 0)
}

// DecodeRequest reads the message at the beginning of b, which has RequestSize bytes at
// least.
func DecodeRequest(b []byte) (r Request, reserved uint32) {
	_ = b[RequestSize-1]
	return Request{
		Cookie:  binary.LittleEndian.Uint64(b),
		Offset:  int64(binary.LittleEndian.Uint64(b[8:])),
		Length:  binary.LittleEndian.Uint32(b[16:]),
		Payload: binary.LittleEndian.Uint32(b[20:]),
		Op:      Op(binary.LittleEndian.Uint16(b[24:])),
		Flags:   store.Flags(binary.LittleEndian.Uint16(b[26:])),
	}, binary.LittleEndian.Uint32(b[28:])
}

// check returns what is wrong with a request for a disk of size bytes and with so much
// memory, or nil.
func (r Request) check(size int64, memory int) error {
	switch {
	case r.Op < OpRead || r.Op > OpPing:
		return fmt.Errorf("ring: request %#x has unknown %v", r.Cookie, r.Op)
	case r.Op == OpPing:
		return nil
	case r.Offset < 0 || r.Offset > size || int64(r.Length) > size-r.Offset:
		return fmt.Errorf("ring: %v of %d bytes at %d on a disk of %d", r.Op, r.Length, r.Offset, size)
	case r.Op == OpZero:
		return nil
	case int64(r.Payload)+int64(r.Length) > int64(memory):
		return fmt.Errorf("ring: %v with a payload of %d bytes at %d in a memory of %d", r.Op, r.Length, r.Payload, memory)
	}
	return nil
}

// Completion is the answer to one request.
type Completion struct {
	Cookie uint64
	Length uint32        // the request's if it succeeded, else 0
	Errno  syscall.Errno // 0 if it succeeded
}

// Append appends the completion's message.
func (c Completion) Append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, c.Cookie)
	b = binary.LittleEndian.AppendUint32(b, c.Length)
	return binary.LittleEndian.AppendUint32(b, uint32(c.Errno))
}

// DecodeCompletion reads the message at the beginning of b, which has CompletionSize
// bytes at least.
func DecodeCompletion(b []byte) Completion {
	_ = b[CompletionSize-1]
	return Completion{
		Cookie: binary.LittleEndian.Uint64(b),
		Length: binary.LittleEndian.Uint32(b[8:]),
		Errno:  syscall.Errno(binary.LittleEndian.Uint32(b[12:])),
	}
}

// maxErrno is the last errno that Linux has room for.
const maxErrno = 4095

// Check returns what is wrong with the completion of a request of length bytes, or nil.
func (c Completion) Check(length uint32) error {
	switch {
	case c.Errno > maxErrno:
		return fmt.Errorf("ring: request %#x was completed with errno %d, and there is none over %d", c.Cookie, uint32(c.Errno), maxErrno)
	case c.Errno == 0 && c.Length != length:
		return fmt.Errorf("ring: request %#x for %d bytes was completed with %d", c.Cookie, length, c.Length)
	case c.Errno != 0 && c.Length != 0:
		return fmt.Errorf("ring: request %#x failed with errno %d, and yet %d bytes are said to be done", c.Cookie, uint32(c.Errno), c.Length)
	}
	return nil
}
