// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"fmt"

	"github.com/flexnbd/flexnbd/sdk/store"
	backendv1 "github.com/flexnbd/flexnbd/sdk/wire/proto/backend/v1"
)

const (
	// maxExtents is the most extents in one answer.
	maxExtents = 1 << 20
	// maxExtentBytes is the most that one of them takes in the message: a tag
	// and a length, and the same with a number for each of its fields.
	maxExtentBytes = 2 + 11 + 6
)

func extentsToProto(extents []store.Extent) []*backendv1.Extent {
	if len(extents) > maxExtents {
		extents = extents[:maxExtents]
	}
	out := make([]*backendv1.Extent, len(extents))
	flat := make([]backendv1.Extent, len(extents)) // one allocation instead of many
	for i, e := range extents {
		flat[i].Length, flat[i].State = e.Length, uint32(e.State)
		out[i] = &flat[i]
	}
	return out
}

// extentsFromProto lays the runs end to end from off. It bounds and decodes;
// that they make sense as a map is for the host to check, whatever the lane.
func extentsFromProto(off int64, runs []*backendv1.Extent) ([]store.Extent, error) {
	if len(runs) > maxExtents {
		return nil, fmt.Errorf("the plugin sent %d extents, more than %d: %w", len(runs), maxExtents, store.ErrIO)
	}
	out := make([]store.Extent, len(runs))
	for i, r := range runs {
		if r.GetLength() <= 0 || off+r.GetLength() < off || r.GetState() > uint32(store.Hole|store.Zero) {
			return nil, fmt.Errorf("the plugin sent an extent of length %d and state %d: %w", r.GetLength(), r.GetState(), store.ErrIO)
		}
		out[i] = store.Extent{Offset: off, Length: r.GetLength(), State: store.State(r.GetState())}
		off += r.GetLength()
	}
	return out, nil
}
