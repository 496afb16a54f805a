// SPDX-License-Identifier: GPL-3.0-or-later

package session

import (
	"context"
	"slices"
	"syscall"
	"testing"

	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/sdk/store"
)

// mapped is a disk whose extent map a test makes up.
type mapped struct {
	*disk
	extents func(off, length int64) ([]store.Extent, error)
}

func newMapped(size int64, extents func(off, length int64) ([]store.Extent, error)) *mapped {
	m := &mapped{disk: newDisk(size), extents: extents}
	m.info.CanExtents = true
	return m
}

func (m *mapped) Extents(_ context.Context, off, length int64) ([]store.Extent, error) {
	return m.extents(off, length)
}

// alternating gives the sectors of a disk the states in turn, cut at each sector.
func alternating(states ...store.State) func(off, length int64) ([]store.Extent, error) {
	const sector = 512
	return func(off, length int64) (extents []store.Extent, err error) {
		for end := off + length; off < end; {
			n := min(end-off, sector-off%sector)
			extents = append(extents, store.Extent{Offset: off, Length: n, State: states[off/sector%int64(len(states))]})
			off += n
		}
		return extents, nil
	}
}

const (
	data = 0
	hole = nbd.StateHole
	zero = nbd.StateZero
)

func TestChecklist20BlockStatus(t *testing.T) {
	every := alternating(store.Data, store.Data, store.Hole, store.Zero, store.Hole|store.Zero, store.Hole|store.Zero)
	c := structured(t, open(t, newMapped(3072+100, every)))
	for _, test := range []struct {
		name   string
		flags  nbd.CommandFlags
		off    uint64
		length uint32
		want   []nbd.Descriptor
	}{
		{"neighbours are made one", 0, 0, 3072, []nbd.Descriptor{{Length: 1024, Status: data}, {Length: 512, Status: hole}, {Length: 512, Status: zero}, {Length: 1024, Status: hole | zero}}},
		{"no more than was asked for", 0, 100, 1000, []nbd.Descriptor{{Length: 924, Status: data}, {Length: 76, Status: hole}}},
		{"one byte", 0, 1023, 1, []nbd.Descriptor{{Length: 1, Status: data}}},
		{"the end", 0, 3072, 100, []nbd.Descriptor{{Length: 100, Status: data}}},
		{"one extent", nbd.CmdFlagReqOne, 0, 3072, []nbd.Descriptor{{Length: 1024, Status: data}}},
		{"one extent, shorter", nbd.CmdFlagReqOne, 512, 100, []nbd.Descriptor{{Length: 100, Status: data}}},
	} {
		got := c.must(nbd.CmdBlockStatus, test.flags, test.off, test.length)
		if !slices.Equal(got.extents, test.want) || len(got.chunks) != 1 {
			t.Errorf("%s: got %v in %d chunks, want %v", test.name, got.extents, len(got.chunks), test.want)
		}
	}
	for _, test := range []struct {
		off    uint64
		length uint32
	}{{0, 0}, {3172, 0}, {3172, 1}, {0, 3173}, {^uint64(0), 2}} {
		if got := c.do(nbd.CmdBlockStatus, 0, test.off, test.length); got.errno != nbd.EINVAL {
			t.Errorf("%d bytes at %d: %v", test.length, test.off, got.errno)
		}
	}
	for _, flags := range []nbd.CommandFlags{nbd.CmdFlagDF, nbd.CmdFlagNoHole, nbd.CmdFlagPayloadLen} {
		if got := c.do(nbd.CmdBlockStatus, flags, 0, 512); got.errno != nbd.EINVAL {
			t.Errorf("with the flags %v: %v", flags, got.errno)
		}
	}
	c.leave()
}

func TestBlockStatusNeedsItsContext(t *testing.T) {
	simple(t, open(t, newDisk(testSize))).wantBlockStatus(false)
	c := haggle(t)
	c.ask(nbd.OptStructuredReply, nil, nbd.RepAck)
	c.structured = true
	c.enter()
	c.wantBlockStatus(false)
}

// TestChecklist20BlockStatusIsBounded checks that the answer ends early where it would have
// too many extents.
func TestChecklist20BlockStatusIsBounded(t *testing.T) {
	c := structured(t, open(t, newMapped(1<<32-1, func(off, length int64) ([]store.Extent, error) {
		return alternating(store.Data, store.Zero)(off, min(length, (maxDescriptors+100)*512))
	})))
	got := c.must(nbd.CmdBlockStatus, 0, 0, 1<<32-1)
	if len(got.extents) != maxDescriptors || got.chunks[0].Length != 4+8*maxDescriptors {
		t.Errorf("got %d extents, want %d", len(got.extents), maxDescriptors)
	}
}

// TestBlockStatusOf4GiB checks that the longest extent fits.
func TestBlockStatusOf4GiB(t *testing.T) {
	c := structured(t, open(t, newMapped(1<<40, func(off, length int64) ([]store.Extent, error) {
		half := length / 2
		return []store.Extent{{Offset: off, Length: half, State: store.Data}, {Offset: off + half, Length: length - half, State: store.Data}}, nil
	})))
	got := c.must(nbd.CmdBlockStatus, 0, 1<<39, 1<<32-1)
	if want := []nbd.Descriptor{{Length: 1<<32 - 1}}; !slices.Equal(got.extents, want) {
		t.Errorf("got %v", got.extents)
	}
}

func TestBlockStatusThatFails(t *testing.T) {
	c := structured(t, open(t, newMapped(testSize, func(int64, int64) ([]store.Extent, error) {
		return nil, syscall.ENOMEM
	})))
	if got := c.do(nbd.CmdBlockStatus, 0, 0, 512); got.errno != nbd.ENOMEM || len(got.chunks) != 1 || got.message == "" {
		t.Errorf("got %+v", got)
	}
	c.alive()
}

// TestFewBlockStatusesAtATime checks that what a store says about a hundred
// requests is not all in memory at once.
func TestFewBlockStatusesAtATime(t *testing.T) {
	d := newDisk(testSize)
	d.info.CanExtents = true
	e := open(t, d)
	c := structured(t, e)
	c.must(nbd.CmdBlockStatus, 0, 0, 512)
	b := d.block(t, "extents", 4096) // not those of the build
	const n = 100
	for range n {
		c.send(nbd.CmdBlockStatus, 0, 4096, 512)
	}
	for range maxStatuses {
		receive(t, b.entered)
	}
	c.alive() // everything before it has been read
	if len(b.entered) > 0 {
		t.Errorf("more than %d are looked up at a time", maxStatuses)
	}
	b.release()
	c.all(n)
	c.leave()
}
