// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

// zeroes is sent for a range that is known to read as zeroes, to clients that
// have no holes.
var zeroes [wire.MaxPayload]byte

// read starts a READ. What fits into one payload is answered with one message.
// More leaves as one chunk per piece, in any order, if the client takes chunks;
// else as a stream.
func (t *transmission) read(c *call) error {
	off, left := int64(c.request.Offset), int64(c.request.Length)
	if left > wire.MaxPayload && (!t.agreed.structured || c.request.Flags.Has(nbd.CmdFlagDF)) {
		t.task(func() { t.stream(c) })
		return nil
	}
	only := left <= wire.MaxPayload
	for left > 0 {
		n := min(left, wire.MaxPayload)
		data, err := t.borrow(int(n))
		if err != nil {
			return err
		}
		p := c.add(wire.OpRead, off, n, data)
		p.only, p.request.MayLend = only, true
		t.batch = append(t.batch, &p.request)
		off, left = off+n, left-n
	}
	c.finish()
	return nil
}

// data makes the reply to a read that has one piece.
func (c *call) data(p *piece) reply {
	r := &p.request
	if c.t.agreed.structured {
		return c.chunk(p, nbd.ChunkFlagDone)
	}
	out := reply{payload: r.Data}
	if r.Zero {
		out.body = zeroes[:r.Length]
	} else {
		out.carry(r)
	}
	out.setHead(nbd.AppendSimpleReply(out.head[:0], 0, c.request.Cookie))
	return out
}

// chunk makes one chunk of a read's structured reply: data, or a hole.
func (c *call) chunk(p *piece, flags nbd.ChunkFlags) reply {
	r := &p.request
	out := reply{payload: r.Data}
	if r.Zero {
		out.setHead(nbd.AppendOffsetHole(out.head[:0], flags, c.request.Cookie, uint64(r.Offset), uint32(r.Length)))
		return out
	}
	out.setHead(nbd.AppendOffsetData(out.head[:0], flags, c.request.Cookie, uint64(r.Offset), uint32(r.Length)))
	out.carry(r)
	return out
}

// sendChunk sends one piece of several. A piece that failed says nothing: the
// call's last message does.
func (t *transmission) sendChunk(p *piece) {
	if p.request.Err != nil {
		t.queue.Return(p.request.Data)
		return
	}
	t.outbox.put(p.call.chunk(p, 0))
}
