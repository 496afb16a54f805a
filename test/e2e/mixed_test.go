// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/flexnbd/flexnbd/core/nbd"
)

// Requests of all kinds, which take different ways on the file lane, leave the same
// bytes there, whether the backend crashes meanwhile or not: what is repeated after a
// crash never lands on anything newer.
func TestMixedRequestsSeeNoCrash(t *testing.T) {
	t.Parallel()
	on(t, func(t *testing.T, b setting) {
		const clients, region, crashes = 3, 256 << 10, 6
		s := b.serve(t, clients*region)
		var over atomic.Bool
		var running sync.WaitGroup
		var rounds atomic.Int64
		for client := range clients {
			m := &mixer{pipeline: s.pipeline(), at: uint64(client * region), model: make([]byte, region),
				random: rand.New(rand.NewPCG(1, uint64(client)))}
			running.Go(func() {
				for !over.Load() && !t.Failed() {
					m.round()
					rounds.Add(1)
				}
			})
		}
		// A failed client ends its goroutine only.
		progress := func() {
			goal := rounds.Load() + 20
			eventually(t, "requests are carried out", func() bool { return t.Failed() || rounds.Load() >= goal })
		}
		for i := range crashes {
			progress()
			s.replaced("backend", []syscall.Signal{syscall.SIGKILL, syscall.SIGSTOP}[i%2])
		}
		progress()
		over.Store(true)
		running.Wait()
		s.wantLane(b.lane)
	}, fileOnFile, fileOnRing, fileOnRPC, blockdevOnFile)
}

// mixer changes a region that is its own, and knows what has to be in it.
type mixer struct {
	*pipeline
	at     uint64
	model  []byte
	random *rand.Rand
}

// round makes some changes in flight together, which do not overlap, and then reads
// everything.
func (m *mixer) round() {
	const slots = 8
	width := len(m.model) / slots
	for slot := range slots {
		off := slot*width + m.random.IntN(width/2)
		n := 1 + m.random.IntN(width/2)
		if m.random.IntN(2) == 0 { // whole blocks
			off, n = slot*width, width/2
		}
		request := nbd.Request{Offset: m.at + uint64(off), Length: uint32(n), Command: nbd.CmdWrite}
		if m.random.IntN(3) == 0 {
			request.Flags = nbd.CmdFlagFUA
		}
		part := m.model[off : off+n]
		switch m.random.IntN(4) {
		case 0:
			request.Command = nbd.CmdWriteZeroes
			clear(part)
			m.send(request, nil)
		case 1:
			m.send(nbd.Request{Command: nbd.CmdFlush}, nil)
		default:
			for i := range part {
				part[i] = byte(m.random.Uint32())
			}
			m.send(request, part)
		}
	}
	for len(m.sent) > 0 {
		if got := m.next(); got.errno != 0 {
			m.t.Errorf("request %d: %v", got.cookie, got.errno)
			return
		}
	}
	m.wantRead(m.at, m.model)
}
