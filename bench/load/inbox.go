// SPDX-License-Identifier: GPL-3.0-or-later

package load

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// inbox holds what was received and takes it apart.
type inbox struct {
	memory     []byte
	begin, end int   // the part of memory that holds bytes
	done       []int // slots that were answered, since the last receive

	// The reply whose data is being received.
	slot int
	last bool   // nothing follows the data
	left uint32 // bytes of data to come

	check func(p []byte, off uint64) error
}

// inboxSize takes in many replies at a time, and still fits into the CPU's second
// cache, where the kernel's copy is read from again for the check.
const inboxSize = 256 << 10

func newInbox() inbox {
	return inbox{memory: make([]byte, inboxSize), done: make([]int, 0, MaxDepth)}
}

// receive waits for bytes and returns the slots that they complete, and the time. It
// may be none, in the middle of a long reply.
func (c *connection) receive() (done []int, now time.Duration, err error) {
	b := &c.inbox
	n, err := c.Read(b.memory[b.end:])
	if err != nil {
		if err == io.EOF { //nolint:errorlint // Read returns it as it is
			err = fmt.Errorf("the server closed the connection with %d requests in flight: %w", c.flying, io.ErrUnexpectedEOF)
		}
		return nil, 0, err
	}
	now = c.now()
	b.end += n
	b.done = b.done[:0]
	for {
		more, err := c.parse()
		if err != nil {
			return nil, 0, err
		}
		if !more {
			break
		}
	}
	// What is left is at most a header.
	b.end = copy(b.memory, b.memory[b.begin:b.end])
	b.begin = 0
	return b.done, now, nil
}

// parse takes one header, or what there is of some data. more is false if it takes
// more bytes to go on.
func (c *connection) parse() (more bool, err error) {
	b := &c.inbox
	have := b.memory[b.begin:b.end]
	switch {
	case b.left > 0:
		return c.takeData(have)
	case c.structured:
		return c.takeChunk(have)
	case len(have) < nbd.SimpleReplySize:
		return false, nil
	}
	reply, err := nbd.DecodeSimpleReply(have)
	if err != nil {
		return false, err
	}
	b.begin += nbd.SimpleReplySize
	i, err := c.answer(reply.Cookie)
	switch {
	case err != nil:
		return false, err
	case reply.Errno != 0:
		return false, c.failed(i, fmt.Sprint(reply.Errno))
	case c.slots[i].command == nbd.CmdRead:
		b.slot, b.last, b.left = i, true, uint32(c.choose.block)
		return true, nil
	}
	return true, c.finish(i)
}

// takeData takes data of the reply that was begun.
func (c *connection) takeData(have []byte) (bool, error) {
	b := &c.inbox
	if len(have) == 0 {
		return false, nil
	}
	s := &c.slots[b.slot]
	n := min(uint32(len(have)), b.left)
	if err := b.check(have[:n], s.offset+uint64(s.got)); err != nil {
		return false, err
	}
	s.got += n
	b.left -= n
	b.begin += int(n)
	if b.left == 0 && b.last {
		return true, c.finish(b.slot)
	}
	return true, nil
}

// takeChunk takes the header of a structured reply's chunk and, but for data, what
// follows it.
func (c *connection) takeChunk(have []byte) (bool, error) {
	if len(have) < nbd.SimpleReplySize {
		return false, nil
	}
	if binary.BigEndian.Uint32(have) == nbd.MagicSimpleReply {
		return c.takeShort(have) // allowed for what is not a read
	}
	if len(have) < nbd.ChunkHeaderSize {
		return false, nil
	}
	h, err := nbd.DecodeChunkHeader(have)
	if err != nil {
		return false, err
	}
	rest := have[nbd.ChunkHeaderSize:]
	i, err := c.answer(h.Cookie)
	if err != nil {
		return false, err
	}
	last := h.Flags&nbd.ChunkFlagDone != 0
	b := &c.inbox
	switch {
	case h.Type == nbd.ChunkNone:
		b.begin += nbd.ChunkHeaderSize
		return true, c.finish(i)
	case h.Type == nbd.ChunkOffsetData && len(rest) < nbd.OffsetDataSize:
		return false, nil
	case h.Type == nbd.ChunkOffsetData:
		off, n, err := nbd.DecodeOffsetData(h, rest)
		if err != nil {
			return false, err
		}
		// Servers may send pieces in any order; none of those measured does, so
		// that the bytes received tell where the next piece belongs.
		if s := &c.slots[i]; s.command != nbd.CmdRead || off != s.offset+uint64(s.got) || uint64(s.got)+uint64(n) > c.choose.block {
			return false, fmt.Errorf("the server sends %d bytes at offset %d for a %v of %d bytes at %d", n, off, s.command, c.choose.block, s.offset)
		}
		b.slot, b.last, b.left = i, last, n
		b.begin += nbd.ChunkHeaderSize + nbd.OffsetDataSize
		return true, nil
	case h.Type.IsError():
		return false, c.failed(i, h.Type.String())
	}
	return false, fmt.Errorf("the server sends a %v chunk, but the disk has no holes", h.Type)
}

// takeShort takes a simple reply among structured ones.
func (c *connection) takeShort(have []byte) (bool, error) {
	reply, err := nbd.DecodeSimpleReply(have)
	if err != nil {
		return false, err
	}
	i, err := c.answer(reply.Cookie)
	switch {
	case err != nil:
		return false, err
	case reply.Errno != 0:
		return false, c.failed(i, fmt.Sprint(reply.Errno))
	}
	c.inbox.begin += nbd.SimpleReplySize
	return true, c.finish(i)
}

func (c *connection) finish(i int) error {
	c.inbox.done = append(c.inbox.done, i)
	return c.land(i)
}

func (c *connection) failed(i int, why string) error {
	s := &c.slots[i]
	return fmt.Errorf("a %v of %d bytes at offset %d failed: %s", s.command, c.choose.block, s.offset, why)
}
