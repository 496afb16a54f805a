// SPDX-License-Identifier: Apache-2.0

package ringlane

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/flexnbd/flexnbd/sdk/wire"
)

func arenaOf(t *testing.T) *arena {
	t.Helper()
	a, err := newArena()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.close)
	return a
}

// Whatever is lent at the same time lies apart, and in the end all of it is one piece
// again.
func TestBlocksLieApart(t *testing.T) {
	a := arenaOf(t)
	random := rand.New(rand.NewPCG(3, 4))
	owner := make([]int, arenaSize>>minBits)
	type loan struct {
		payload *wire.Payload
		id      int
	}
	var lent []loan
	blocks := func(p *wire.Payload) []int {
		off := a.offset(p.Bytes)
		return owner[off>>minBits : (off+cap(p.Bytes))>>minBits]
	}
	for id := 1; id <= 20000; id++ {
		n := 1 + random.IntN(wire.MaxPayload)>>random.IntN(12)
		p := a.tryBorrow(n)
		if p == nil {
			for len(lent) > 0 && random.IntN(8) > 0 {
				i := random.IntN(len(lent))
				l := lent[i]
				for _, who := range blocks(l.payload) {
					if who != l.id {
						t.Fatalf("a block of %d is %d's", l.id, who)
					}
				}
				clear(blocks(l.payload))
				a.giveBack(l.payload)
				lent[i] = lent[len(lent)-1]
				lent = lent[:len(lent)-1]
			}
			continue
		}
		if len(p.Bytes) != n || cap(p.Bytes) < n || cap(p.Bytes) > 2*max(n, 2048) {
			t.Fatalf("a payload of %d bytes has %d of %d", n, len(p.Bytes), cap(p.Bytes))
		}
		mine := blocks(p)
		for i, who := range mine {
			if who != 0 {
				t.Fatalf("%d was lent a block of %d's", id, who)
			}
			mine[i] = id
		}
		lent = append(lent, loan{p, id})
	}
	for _, l := range lent {
		a.giveBack(l.payload)
	}
	for range arenaSize / wire.MaxPayload {
		if a.tryBorrow(wire.MaxPayload) == nil {
			t.Fatal("the memory is not whole again")
		}
	}
	if a.tryBorrow(1) != nil {
		t.Error("more was lent than there is")
	}
}

// The memory used last is used next.
func TestWarmestFirst(t *testing.T) {
	a := arenaOf(t)
	for _, n := range []int{4096, 1 << 20, 512, 65536} {
		p := a.tryBorrow(n)
		if off := a.offset(p.Bytes); off != 0 {
			t.Errorf("%d bytes lie at %d", n, off)
		}
		a.giveBack(p)
	}
}

func TestBorrowWaitsForRoom(t *testing.T) {
	a := arenaOf(t)
	var all []*wire.Payload
	for range arenaSize / wire.MaxPayload {
		all = append(all, a.tryBorrow(wire.MaxPayload))
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := a.borrow(ended, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("borrowing from nothing: %v", err)
	}
	got := make(chan *wire.Payload)
	go func() {
		p, _ := a.borrow(t.Context(), wire.MaxPayload)
		got <- p
	}()
	a.giveBack(all[2])
	if p := <-got; a.offset(p.Bytes) != 2<<20 {
		t.Error("what came back is not what was lent next")
	}
}

func TestForeignMemoryIsNotOurs(t *testing.T) {
	a := arenaOf(t)
	if off := a.offset(make([]byte, 10)); off != -1 {
		t.Errorf("memory of the heap lies at %d", off)
	}
	p := a.tryBorrow(8192)
	if off := a.offset(p.Bytes[4096:]); off != 4096 {
		t.Errorf("the second half lies at %d", off)
	}
}

// Memory that is still lent outlives its queue.
func TestMemoryOutlivesItsQueue(t *testing.T) {
	a, err := newArena()
	if err != nil {
		t.Fatal(err)
	}
	p := a.tryBorrow(100)
	a.close()
	p.Bytes[0] = 1
	a.giveBack(p)
	if a.memory.Bytes != nil {
		t.Error("the memory is still mapped")
	}
}
