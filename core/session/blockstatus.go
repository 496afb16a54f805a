// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"math"

	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/sdk/store"
)

// maxDescriptors bounds the extents in one answer. A client that wants more asks
// again from where the answer ends.
const maxDescriptors = 1 << 16

// blockStatus answers a BLOCK_STATUS for base:allocation, the one context there
// is.
func (t *transmission) blockStatus(c *call) {
	extents, err := t.export.Extents(t.ctx, int64(c.request.Offset), int64(c.request.Length))
	if err != nil {
		c.fail(err)
		c.finish()
		return
	}
	most := maxDescriptors
	if c.request.Flags.Has(nbd.CmdFlagReqOne) {
		most = 1
	}
	descriptors := describeExtents(extents, most)
	r := reply{call: c}
	r.body = nbd.AppendBlockStatus(nil, nbd.ChunkFlagDone, c.request.Cookie, allocationID, descriptors)
	t.outbox.put(r)
}

// describeExtents turns extents into at most most descriptors, neighbours in the
// same state made one.
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
		case last >= 0 && out[last].Status == status && int64(out[last].Length)+e.Length <= math.MaxUint32:
			out[last].Length += uint32(e.Length)
		case len(out) == most:
			return out
		default:
			out = append(out, nbd.Descriptor{Length: uint32(e.Length), Status: status})
		}
	}
	return out
}
