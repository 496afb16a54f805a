// SPDX-License-Identifier: GPL-3.0-or-later

package session

import "github.com/flexnbd/flexnbd/sdk/wire"

// reply is one message to the client: a reply, or one chunk of it. It begins with
// a head. Behind that come a body in memory, bytes of a lent descriptor, a stream,
// or nothing.
type reply struct {
	head    [headRoom]byte // the first headLen bytes are sent
	headLen int
	body    []byte
	stream  *stream

	lent       *wire.Lent // left when the bytes are sent
	from       int64      // of the bytes in the descriptor
	lentLength int64

	payload *wire.Payload // goes back to the queue when body was sent; has room for what is lent
	call    *call         // this message ends it
}

// headRoom is enough for every header and for all chunks of fixed length.
const headRoom = 40

// setHead starts a reply with what an nbd.Append function made.
func (r *reply) setHead(b []byte) { r.headLen = copy(r.head[:], b) }

// carry makes the bytes of a completed read what comes behind the head.
func (r *reply) carry(from *wire.Request) {
	if from.Lent != nil {
		r.lent, r.from, r.lentLength = from.Lent, from.Offset, from.Length
	} else {
		r.body = from.Data.Bytes
	}
}

// inMemory is the length of head and body.
func (r *reply) inMemory() int64 { return int64(r.headLen + len(r.body)) }

// length is the message's, without a stream.
func (r *reply) length() int64 { return r.inMemory() + r.lentLength }

// read puts into memory what was to be sent from the lent descriptor, and leaves
// that.
func (r *reply) read() error {
	r.body = r.payload.Bytes[:r.lentLength]
	err := r.lent.ReadAt(r.body, r.from)
	r.lent.Leave()
	r.lent, r.lentLength = nil, 0
	return err
}
