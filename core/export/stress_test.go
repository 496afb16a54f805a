// SPDX-License-Identifier: GPL-3.0-or-later

package export

import (
	"bytes"
	"context"
	"encoding/binary"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/flexnbd/flexnbd/sdk/store"
)

// Every block has one client that writes to it, so that what it reads there is
// known; everybody else reads everywhere, and zeroings of whole ranges go across
// all blocks of their owner. The build runs again and again meanwhile.
func TestManyClientsFindWhatTheyWrote(t *testing.T) {
	const (
		clients = 6
		blocks  = 40 * clients
		size    = blocks*blockSize + 99
	)
	s := newTestStore(size)
	s.info.FUA = store.None
	s.before = func(call) { runtime.Gosched() }
	s.after = func(call) { runtime.Gosched() }
	e := serveUnbuilt(t, s)
	buildCtx, stopBuild := context.WithCancel(t.Context())
	var builds, writers sync.WaitGroup
	builds.Go(func() {
		for buildCtx.Err() == nil {
			e.build(buildCtx)
			s.took() // or the list of calls never ends
		}
	})
	var elided atomic.Int64
	for i := range clients {
		c := e.connect(t)
		rnd := rand.New(rand.NewPCG(uint64(i), 11))
		writers.Go(func() { c.ownBlocks(rnd, i, clients, blocks, 1500, &elided) })
	}
	writers.Wait()
	stopBuild()
	builds.Wait()
	for b := range int64(blocks) {
		if e.zeros.bits.isSet(b) && !bytes.Equal(s.bytes(b*blockSize, blockSize), noData) {
			t.Errorf("block %d is not zero but known to be", b)
		}
	}
	if elided.Load() == 0 {
		t.Error("no read was answered from the zero map: nothing was tested")
	}
}

// ownBlocks works on every nth block from i on, and compares with a model.
func (c *client) ownBlocks(rnd *rand.Rand, i, n, blocks, rounds int, elided *atomic.Int64) {
	model := make([][]byte, blocks)
	for b := i; b < blocks; b += n {
		model[b] = make([]byte, blockSize)
	}
	for round := range uint64(rounds) {
		b := i + n*rnd.IntN(blocks/n)
		off := int64(b) * blockSize
		from := rnd.Int64N(blockSize)
		to := from + 1 + rnd.Int64N(blockSize-from)
		if rnd.IntN(2) == 0 {
			from, to = 0, blockSize
		}
		flags := store.FUA * store.Flags(rnd.IntN(2))
		switch part := model[b][from:to]; rnd.IntN(7) {
		case 0, 1:
			clear(part)
			c.must(zero(off+from, to-from, flags))
		case 2:
			clear(part)
			c.must(write(off+from, bytes.Clone(part), flags))
		case 3:
			for k := range part {
				part[k] = byte(round) | 1
			}
			c.must(write(off+from, bytes.Clone(part), flags))
		case 4: // what it reads as is not ours to know, so make it known
			c.must(zero(off, blockSize, store.Discard|flags))
			clear(model[b])
			if len(part) >= 8 {
				binary.LittleEndian.PutUint64(part, round+1)
			}
			c.must(write(off, bytes.Clone(model[b]), flags))
		case 5:
			clear(part)
			c.must(zero(off+from, to-from, store.KeepAllocated|flags))
		case 6: // somebody else's, for the sake of the race detector
			c.must(read(rnd.Int64N(int64(blocks-3)*blockSize), 3*blockSize))
		}
		r := c.must(read(off, blockSize))
		got := r.Data.Bytes
		if r.Zero {
			elided.Add(1)
			got = noData
		}
		if !bytes.Equal(got, model[b]) {
			c.t.Errorf("round %d: block %d differs from what was written", round, b)
			return
		}
	}
}
