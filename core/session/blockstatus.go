// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"errors"

	"github.com/flexnbd/flexnbd/core/export"
	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/sdk/store"
)

// The limits of BLOCK_STATUS. An answer comes out of the connection's budget as
// the data of reads does, and a store may describe a range with up to a million
// extents, so only a few are looked up at a time.
const (
	// maxDescriptors bounds the extents in one answer, which then takes half a
	// mebibyte. A client that wants more asks again from where the answer ends.
	maxDescriptors = (512<<10 - statusHeader) / 8
	// statusHeader is the chunk's header and the context's id.
	statusHeader = nbd.ChunkHeaderSize + 4
	// maxStatuses is how many a connection has looked up at a time.
	maxStatuses = 4
)

// blockStatus answers a BLOCK_STATUS for base:allocation, the one context there
// is.
func (t *transmission) blockStatus(c *call) {
	t.statuses <- struct{}{}
	defer func() { <-t.statuses }()
	r, err := t.status(c)
	if err != nil {
		r = c.failed(err)
	}
	t.outbox.put(r)
}

// status makes the answer.
func (t *transmission) status(c *call) (reply, error) {
	extents, err := t.extents(c.request)
	if err != nil {
		return reply{}, err
	}
	most := maxDescriptors
	if c.request.Flags.Has(nbd.CmdFlagReqOne) {
		most = 1
	}
	descriptors := describeExtents(extents, most)
	p, err := t.queue.Borrow(t.ctx, statusHeader+8*len(descriptors))
	if err != nil {
		return reply{}, err
	}
	body := nbd.AppendBlockStatus(p.Bytes[:0], nbd.ChunkFlagDone, c.request.Cookie, allocationID, descriptors)
	return reply{call: c, payload: p, body: body}, nil
}

// extents asks the store, inside the gate: what the extent map of a disk that has
// moved away says is no longer true, and a client may skip what it takes for
// zeroes.
func (t *transmission) extents(r nbd.Request) ([]store.Extent, error) {
	gate := t.export.Gate()
	if err := gate.Enter(t.ctx); err != nil {
		if errors.Is(err, export.ErrGateClosed) {
			err = export.ErrMovedAway
		}
		return nil, err
	}
	defer gate.Leave()
	return t.export.Extents(t.ctx, int64(r.Offset), int64(r.Length))
}

// describeExtents turns extents into at most most descriptors, neighbours in the
// same state made one. All of them together are no longer than the request, so
// their lengths fit.
func describeExtents(extents []store.Extent, most int) []nbd.Descriptor {
	var out []nbd.Descriptor
	for _, e := range extents {
		var status uint32
		if e.State&store.Hole != 0 {
			status |= nbd.StateHole
		}
		if e.State&store.Zero != 0 {
			status |= nbd.StateZero
		}
		last := len(out) - 1
		switch {
		case last >= 0 && out[last].Status == status:
			out[last].Length += uint32(e.Length)
		case len(out) == most:
			return out
		default:
			out = append(out, nbd.Descriptor{Length: uint32(e.Length), Status: status})
		}
	}
	return out
}
