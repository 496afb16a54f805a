// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"errors"
	"math"
	"slices"
	"syscall"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/flexnbd/flexnbd/sdk/store"
	backendv1 "github.com/flexnbd/flexnbd/sdk/wire/proto/backend/v1"
)

func TestExtentsSurviveTheWire(t *testing.T) {
	want := []store.Extent{
		{Offset: 100, Length: 1, State: store.Data},
		{Offset: 101, Length: 4096, State: store.Hole},
		{Offset: 4197, Length: 7, State: store.Zero},
		{Offset: 4204, Length: 1 << 50, State: store.Hole | store.Zero},
	}
	got, err := extentsFromProto(100, extentsToProto(want))
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
}

func TestTooManyExtentsAreCutByTheSenderAndRefusedByTheReceiver(t *testing.T) {
	many := make([]store.Extent, maxExtents+1)
	for i := range many {
		many[i] = store.Extent{Offset: int64(i), Length: 1}
	}
	sent := extentsToProto(many)
	if got, err := extentsFromProto(0, sent); err != nil || len(got) != maxExtents {
		t.Errorf("%d extents arrive as %d, error %v", len(many), len(got), err)
	}
	if _, err := extentsFromProto(0, append(sent, sent[0])); !errors.Is(err, syscall.EIO) {
		t.Errorf("%d extents: error %v", maxExtents+1, err)
	}
}

func TestLargestExtentFitsItsShareOfTheMessage(t *testing.T) {
	one := &backendv1.ExtentsResponse{Extents: []*backendv1.Extent{{Length: -1, State: math.MaxUint32}}}
	if n := proto.Size(one); n > maxExtentBytes {
		t.Errorf("one extent can take %d bytes, maxExtentBytes is %d", n, maxExtentBytes)
	}
}

func TestImpossibleExtentsAreRefused(t *testing.T) {
	for name, runs := range map[string][]*backendv1.Extent{
		"no length":       {{Length: 0}},
		"negative length": {{Length: -1}},
		"unknown state":   {{Length: 1, State: 4}},
		"beyond int64":    {{Length: math.MaxInt64}, {Length: 1}},
		"nothing":         {nil},
	} {
		if got, err := extentsFromProto(5, runs); !errors.Is(err, syscall.EIO) {
			t.Errorf("%s: %v, error %v", name, got, err)
		}
	}
}

func FuzzExtentsFromProto(f *testing.F) {
	seed, err := proto.Marshal(&backendv1.ExtentsResponse{Extents: []*backendv1.Extent{{Length: 5, State: 1}, {Length: 7}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(int64(3), seed)
	f.Fuzz(func(t *testing.T, off int64, b []byte) {
		var p backendv1.ExtentsResponse
		if off < 0 || proto.Unmarshal(b, &p) != nil {
			return
		}
		extents, err := extentsFromProto(off, p.GetExtents())
		if err != nil {
			return
		}
		if len(extents) != len(p.GetExtents()) {
			t.Fatalf("%d runs became %d extents", len(p.GetExtents()), len(extents))
		}
		for _, e := range extents {
			if e.Offset != off || e.Length <= 0 || e.End() < e.Offset || e.State > store.Hole|store.Zero {
				t.Fatalf("extent %+v at %d", e, off)
			}
			off = e.End()
		}
	})
}
