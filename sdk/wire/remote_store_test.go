// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"slices"
	"testing"

	"google.golang.org/grpc"

	"github.com/flexnbd/flexnbd/sdk/store"
	backendv1 "github.com/flexnbd/flexnbd/sdk/wire/proto/backend/v1"
)

// piecewise answers reads and writes and remembers their pieces.
type piecewise struct {
	backendv1.BackendClient
	offsets []int64
	lengths []int
	flags   []uint32
}

func (c *piecewise) Read(_ context.Context, r *backendv1.ReadRequest, _ ...grpc.CallOption) (*backendv1.ReadResponse, error) {
	c.offsets = append(c.offsets, r.GetOffset())
	c.lengths = append(c.lengths, int(r.GetLength()))
	data := make([]byte, r.GetLength())
	data[0] = byte(len(c.offsets))
	return &backendv1.ReadResponse{Data: data}, nil
}

func (c *piecewise) Write(_ context.Context, r *backendv1.WriteRequest, _ ...grpc.CallOption) (*backendv1.WriteResponse, error) {
	c.offsets = append(c.offsets, r.GetOffset())
	c.lengths = append(c.lengths, len(r.GetData()))
	c.flags = append(c.flags, r.GetFlags())
	return &backendv1.WriteResponse{}, nil
}

func over(backend backendv1.BackendClient) *remoteStore {
	return &remoteStore{backend: backend, underWay: newBudget(maxUnderWay)}
}

func TestRequestsOverTheLimitAreCut(t *testing.T) {
	const size = 2*maxPayload + 3
	wantOffsets := []int64{7, 7 + maxPayload, 7 + 2*maxPayload}
	wantLengths := []int{maxPayload, maxPayload, 3}
	p := make([]byte, size)

	reads := &piecewise{}
	if err := over(reads).ReadAt(t.Context(), p, 7); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(reads.offsets, wantOffsets) || !slices.Equal(reads.lengths, wantLengths) {
		t.Errorf("read pieces at %v of %v bytes", reads.offsets, reads.lengths)
	}
	if p[0] != 1 || p[maxPayload] != 2 || p[2*maxPayload] != 3 {
		t.Error("the pieces of a read are not in their places")
	}
	writes := &piecewise{}
	if err := over(writes).WriteAt(t.Context(), p, 7, store.FUA); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(writes.offsets, wantOffsets) || !slices.Equal(writes.lengths, wantLengths) {
		t.Errorf("write pieces at %v of %v bytes", writes.offsets, writes.lengths)
	}
	if !slices.Equal(writes.flags, []uint32{1, 1, 1}) {
		t.Errorf("write flags %v, want FUA on each piece", writes.flags)
	}
}
