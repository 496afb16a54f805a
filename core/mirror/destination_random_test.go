// SPDX-License-Identifier: GPL-3.0-or-later

package mirror

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/flexnbd/flexnbd/core/nbd"
	"github.com/flexnbd/flexnbd/core/owner"
	"github.com/flexnbd/flexnbd/core/session"
)

// TestNoOrderOfMessagesBreaksAPreparedDisk has a source begin attempt after attempt,
// giving up at any step, while what it has sent before arrives late, a stranger
// tries its luck, COMMITs of nobody come in, and the power fails in thought. The
// rules are looked at from below, where the bytes land.
func TestNoOrderOfMessagesBreaksAPreparedDisk(t *testing.T) {
	seeds := uint64(20)
	if testing.Short() {
		seeds = 8
	}
	for seed := range seeds {
		w := &world{t: t, site: newSite(t), seed: seed, random: rand.New(rand.NewPCG(seed, 0))}
		w.run()
		w.site.stop()
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// world is one run.
type world struct {
	t      *testing.T
	site   *site
	seed   uint64
	random *rand.Rand // of the source

	mu      sync.Mutex // site.connect
	current atomic.Uint32
	over    chan struct{} // closed when the source is acknowledged
	late    sync.WaitGroup
}

func (w *world) run() {
	w.over = make(chan struct{})
	w.site.disk.hook(func() { w.site.disk.onWrite, w.site.disk.written = w.lands, w.landed })
	var others sync.WaitGroup
	others.Go(w.stranger)
	others.Go(w.nobody)
	others.Go(w.powerCuts)
	winner := w.source()
	close(w.over)
	others.Wait()
	w.late.Wait()

	w.site.wantOwner(id(winner))
	if !wholly(w.site.disk.content(), winner) || !wholly(w.site.disk.durable, winner) {
		w.t.Errorf("the disk is not that of attempt %d", winner)
	}
}

// lands looks at the record whenever a write is about to land: a power cut now must
// leave a plain one.
func (w *world) lands([]byte) error {
	if st := w.site.durable(); st.Incomplete == nil || !st.Incomplete.Prepared.IsZero() {
		w.t.Errorf("a write lands beside the records %+v", st)
	}
	return nil
}

// landed looks at a write that has landed: nobody may have been let in since it was
// fenced.
func (w *world) landed(p []byte) {
	if now := byte(w.current.Load()); p[0] != now {
		w.t.Errorf("a write of attempt %d has landed after %d was let in", p[0], now)
	}
}

func (w *world) connect(name string, stubborn bool) *conn {
	w.mu.Lock()
	defer w.mu.Unlock()
	if stubborn {
		return w.site.connectStubborn(name)
	}
	return w.site.connect(name)
}

// source runs attempts until one is committed and acknowledged, and returns it.
// Attempts of the source have the ids from 1, those of the stranger from 128.
func (w *world) source() byte {
	var next byte // what .MIGRATED.next holds
	for n := byte(1); n < 128; {
		c := w.connect("source", w.random.IntN(4) == 0)
		err := w.letIn(c, sending(1, n, next), n)
		if err != nil && !strings.Contains(err.Error(), "is over") {
			runtime.Gosched() // the stranger was first
			continue
		}
		if err == nil && w.attempt(c, n, &next) {
			w.commit(n)
			return n
		}
		n++
	}
	w.t.Errorf("seed %d: no attempt succeeded", w.seed)
	return 0
}

// letIn says hello and notes who is let in, at once: a stubborn connection that has
// to end first does so meanwhile.
func (w *world) letIn(c *conn, hello nbd.MigrationHello, n byte) error {
	err := c.hello(hello)
	if err == nil {
		w.current.Store(uint32(n))
	} else {
		c.end(false)
	}
	return err
}

// attempt sends the disk on up to three connections, and gives up where it likes. It
// returns true when PREPARE was answered and the source stands by it.
func (w *world) attempt(c *conn, n byte, next *byte) bool {
	conns := []*conn{c}
	for range w.random.IntN(3) {
		if more := w.connect("source, more", false); more.hello(sending(1, n, *next)) == nil {
			conns = append(conns, more)
		}
	}
	if c.write(w.random.IntN(blocks), n) != nil || w.giveUp() {
		w.leaveBehind(conns, n, false)
		return false
	}
	*next = n
	if !w.copyAll(conns, n) || w.giveUp() {
		w.leaveBehind(conns, n, false)
		return false
	}
	stands := w.random.IntN(3) > 0 && c.prepare() == nil && !w.giveUp()
	w.leaveBehind(conns, n, true)
	return stands
}

func (w *world) giveUp() bool { return w.random.IntN(5) == 0 }

// copyAll writes every block, on all connections at once.
func (w *world) copyAll(conns []*conn, n byte) bool {
	order := w.random.Perm(blocks)
	var failed atomic.Bool
	var writers sync.WaitGroup
	for i, c := range conns {
		writers.Go(func() {
			for j := i; j < len(order); j += len(conns) {
				if c.write(order[j], n) != nil {
					failed.Store(true)
				}
			}
		})
	}
	writers.Wait()
	return !failed.Load()
}

// leaveBehind lets go of connections. What was sent on them still arrives, late and
// in any order, until they end: writes of what it has copied, and PREPARE only if it
// had come as far.
func (w *world) leaveBehind(conns []*conn, n byte, prepared bool) {
	for _, c := range conns {
		messages := w.random.Perm(5)[:w.random.IntN(6)]
		disc := w.random.IntN(3) == 0
		w.late.Go(func() {
			for _, m := range messages {
				switch m {
				case 0:
					if prepared {
						_ = c.prepare()
					}
				case 1:
					_ = c.do(func(s session.Sender) error { s.Flushed(nil); return nil })
				default:
					_ = c.write(m, n)
				}
			}
			c.end(disc)
		})
	}
}

// commit repeats COMMIT until it is acknowledged. A refusal ends the world: nobody
// would ever serve.
func (w *world) commit(n byte) {
	for range 1 + w.random.IntN(2) {
		c := w.connect("committer", false)
		if err := errors.Join(c.hello(committing(id(n))), c.commit()); err != nil {
			w.t.Errorf("COMMIT of the prepared attempt %d: %v", n, err)
		}
		c.end(false)
	}
}

// stranger is another source, which knows of no record that it may replace.
func (w *world) stranger() {
	for n := byte(128); n < 255; n++ {
		runtime.Gosched()
		select {
		case <-w.over:
			return
		default:
		}
		c := w.connect("stranger", false)
		if w.letIn(c, sending(2, n, 0), n) == nil {
			_ = c.write(int(n)%blocks, n)
			c.end(n%2 == 0)
		}
	}
}

// nobody sends COMMITs of ids that nobody was prepared for.
func (w *world) nobody() {
	for n := byte(0); ; n++ {
		select {
		case <-w.over:
			return
		default:
		}
		c := w.connect("nobody", false)
		unknown := owner.ID{0, n}
		unknown[2] = 1
		if err := c.hello(committing(unknown)); err != nil {
			w.t.Errorf("a connection for COMMIT was refused: %v", err)
		} else if c.commit() == nil {
			w.t.Error("the COMMIT of nobody was acknowledged")
		}
		c.end(n%2 == 0)
	}
}

// powerCuts looks at what a power cut would leave: a prepared record beside a disk
// that is not wholly that attempt's, or not durable, is what an operator's promote
// would ruin a disk with.
func (w *world) powerCuts() {
	disk := w.site.disk
	for seed := uint64(0); ; seed++ {
		select {
		case <-w.over:
			return
		default:
		}
		disk.mu.Lock()
		before := disk.changes
		disk.mu.Unlock()
		st, err := owner.Inspect(w.site.files.CrashSeed(seed), place)
		now := disk.content()
		disk.mu.Lock()
		durable, after := bytes.Clone(disk.durable), disk.changes
		disk.mu.Unlock()
		if err != nil {
			w.t.Errorf("records after a power cut: %v", err)
			return
		}
		if st.Incomplete == nil || st.Incomplete.Prepared.IsZero() || before != after {
			continue
		}
		if n := st.Incomplete.Prepared[0]; !wholly(now, n) || !wholly(durable, n) {
			w.t.Errorf("a power cut would leave a disk prepared for %d whose blocks are %v", n, firsts(now))
		}
	}
}

// firsts is one byte of each block.
func firsts(p []byte) []byte {
	var b []byte
	for c := range slices.Chunk(p, block) {
		b = append(b, c[0])
	}
	return b
}
