// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/hashicorp/go-plugin"
	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/sdk"
	"github.com/flexnbd/flexnbd/sdk/fdstore"
	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/wire"
)

func init() { roles["test-slow"] = func() { serveBackend(openSlow) } }

// slow is a file whose writes take a while, before and behind the moment when
// they land, so that a crash meets them in every state.
type slow struct{ *fdstore.Store }

func openSlow(_ context.Context, disk sdk.Disk) (store.Store, error) {
	f := disk.Lease
	if f == nil {
		var err error
		if f, err = os.OpenFile(disk.Location, os.O_RDWR, 0); err != nil {
			return nil, err
		}
	}
	s, err := fdstore.New(f, fdstore.Options{})
	return slow{s}, err
}

func (s slow) WriteAt(ctx context.Context, p []byte, off int64, flags store.Flags) error {
	time.Sleep(rand.N(3 * time.Millisecond))
	// A write inside the kernel does not care who has given it up.
	err := s.Store.WriteAt(context.WithoutCancel(ctx), p, off, flags)
	time.Sleep(rand.N(3 * time.Millisecond))
	return err
}

// A small disk is fought over by many.
const (
	sector       = 512
	sectors      = 4
	contenders   = 6
	crashes      = 8
	betweenCrash = 40 // requests
)

// history is what the contenders did and saw, one register per sector.
type history struct {
	mu  sync.Mutex
	ops [sectors][]porcupine.Operation
}

type access struct {
	write bool
	value uint64
}

// record notes one request: to each of its sectors the same thing happened at
// some time between the call and the return.
func (h *history) record(client, first int, write bool, values []uint64, call, ret time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, v := range values {
		h.ops[first+i] = append(h.ops[first+i], porcupine.Operation{
			ClientId: client, Call: int64(call), Return: int64(ret),
			Input: access{write, v}, Output: v,
		})
	}
}

// register is one sector: a read returns what was written last.
var register = porcupine.Model{
	Init: func() any { return uint64(0) },
	Step: func(state, input, output any) (bool, any) {
		if a := input.(access); a.write {
			return true, a.value
		}
		return output.(uint64) == state.(uint64), state
	},
}

// linearizable says whether every sector's history can be explained.
func (h *history) linearizable(t *testing.T) bool {
	for i, ops := range h.ops {
		switch porcupine.CheckOperationsTimeout(register, ops, time.Minute) {
		case porcupine.Illegal:
			t.Logf("the history of sector %d, %d operations, is not linearizable", i, len(ops))
			return false
		case porcupine.Unknown:
			t.Fatalf("no answer for the %d operations of sector %d within a minute", len(ops), i)
		}
	}
	return true
}

// contend runs the contenders on s while crash is called again and again.
func contend(t *testing.T, s store.Store, crash func(i int, done func() int64)) *history {
	t.Helper()
	h := &history{}
	var done atomic.Int64
	var value atomic.Uint64
	begin := time.Now()
	const total = crashes * betweenCrash
	var clients sync.WaitGroup
	for client := range contenders {
		clients.Go(func() {
			for n := done.Add(1); n <= total; n = done.Add(1) {
				first := rand.IntN(sectors)
				count := 1 + rand.IntN(sectors-first)
				p := make([]byte, count*sector)
				write := rand.IntN(2) == 0
				values := make([]uint64, count)
				var err error
				call := time.Since(begin)
				if write {
					v := value.Add(1)
					for i := range values {
						values[i] = v
						binary.LittleEndian.PutUint64(p[i*sector:], v)
					}
					err = s.WriteAt(context.Background(), p, int64(first*sector), 0)
				} else {
					err = s.ReadAt(context.Background(), p, int64(first*sector))
					for i := range values {
						values[i] = binary.LittleEndian.Uint64(p[i*sector:])
					}
				}
				ret := time.Since(begin)
				if err != nil {
					t.Errorf("request failed: %v", err)
					return
				}
				h.record(client, first, write, values, call, ret)
			}
		})
	}
	for i := range crashes - 1 {
		await(t, "requests", func() bool { return done.Load() >= int64(i+1)*betweenCrash })
		crash(i, done.Load)
	}
	clients.Wait()
	return h
}

// slowDisk opens a disk in a slow plugin.
func slowDisk(t *testing.T) *Disk {
	t.Helper()
	image := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(image, make([]byte, sectors*sector), 0o600); err != nil {
		t.Fatal(err)
	}
	h, _ := newHost(t)
	d, err := h.OpenDisk(t.Context(), self("test-slow"), wire.Disk{Location: image})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// strike kills or stops the process that serves the disk, in turn, and waits for
// the next one.
func strike(t *testing.T, d *Disk, i int) {
	t.Helper()
	signal := unix.SIGKILL
	if i%2 == 1 {
		signal = unix.SIGSTOP
	}
	n := d.Restarts()
	if err := unix.Kill(d.Process().PID(), signal); err != nil {
		t.Error(err)
	}
	await(t, "a restart", func() bool { return d.Restarts() > n })
}

func TestHistoryThroughCrashesIsLinearizable(t *testing.T) {
	d := slowDisk(t)
	h := contend(t, d, func(i int, _ func() int64) { strike(t, d, i) })
	if !h.linearizable(t) {
		t.Error("a crash showed")
	}
	if d.Restarts() < crashes-1 {
		t.Errorf("%d restarts, want at least %d", d.Restarts(), crashes-1)
	}
}

// The rest breaks one rule of Disk at a time and expects the check to notice. How
// often it does is chance, so each has several attempts.
const attempts = 20

func noticed(t *testing.T, run func() *history) {
	t.Helper()
	old := maxRestarts
	maxRestarts = attempts * crashes
	t.Cleanup(func() { maxRestarts = old })
	for range attempts {
		if !run().linearizable(t) {
			return
		}
	}
	t.Errorf("the rule was broken in %d histories, and none showed it", attempts)
}

// noTurns lets overlapping calls be under way together.
type noTurns struct{ *Disk }

func (d noTurns) WriteAt(ctx context.Context, p []byte, off int64, flags store.Flags) error {
	return d.call(ctx, true, func(s store.Store) error { return s.WriteAt(ctx, p, off, flags) })
}

func (d noTurns) ReadAt(ctx context.Context, p []byte, off int64) error {
	return d.call(ctx, true, func(s store.Store) error { return s.ReadAt(ctx, p, off) })
}

func TestOverlapWithoutTurnsIsNoticed(t *testing.T) {
	noticed(t, func() *history {
		d := slowDisk(t)
		return contend(t, noTurns{d}, func(i int, _ func() int64) { strike(t, d, i) })
	})
}

// noPlace gives its place up at a crash: newer calls go first.
type noPlace struct {
	*Disk
	done    *atomic.Int64 // calls
	waiting *atomic.Bool  // one of them gives its place up, or there would be no newer ones
}

func (d noPlace) ReadAt(ctx context.Context, p []byte, off int64) error {
	defer d.done.Add(1)
	return d.Disk.ReadAt(ctx, p, off)
}

// newer waits until other calls have passed, if there are any to wait for.
func (d noPlace) newer() {
	if !d.waiting.CompareAndSwap(false, true) {
		return
	}
	defer d.waiting.Store(false)
	n, giveUp := d.done.Load(), time.Now().Add(300*time.Millisecond)
	for d.done.Load() < n+2*contenders && time.Now().Before(giveUp) {
		time.Sleep(time.Millisecond)
	}
}

func (d noPlace) WriteAt(ctx context.Context, p []byte, off int64, flags store.Flags) error {
	defer d.done.Add(1)
	for {
		o, err := d.serving(ctx)
		if err != nil {
			return err
		}
		err = d.locked(ctx, off, int64(len(p)), true, true, func(store.Store) error {
			err := o.store.WriteAt(ctx, p, off, flags)
			if errors.Is(err, wire.ErrPluginGone) {
				return fmt.Errorf("again: %v", err) // hide it from call
			}
			return err
		})
		if err == nil {
			return nil
		}
		d.becomeRestarting(o)
		d.newer()
	}
}

func TestRepeatBehindNewerCallsIsNoticed(t *testing.T) {
	noticed(t, func() *history {
		d := slowDisk(t)
		return contend(t, noPlace{d, new(atomic.Int64), new(atomic.Bool)}, func(i int, _ func() int64) { strike(t, d, i) })
	})
}

func TestRepeatBeforeTheOldProcessIsReapedIsNoticed(t *testing.T) {
	var mu sync.Mutex
	var spared []*Process
	endOld = func(p *Process) error { // hangs up, and lets it live
		mu.Lock()
		defer mu.Unlock()
		spared = append(spared, p)
		protocol, err := p.client.Client()
		if err != nil {
			return err
		}
		return protocol.(*plugin.GRPCClient).Conn.Close()
	}
	t.Cleanup(func() { endOld = (*Process).endLost })
	noticed(t, func() *history {
		d := slowDisk(t)
		h := contend(t, d, func(_ int, done func() int64) {
			old := d.Process()
			strike(t, d, 1) // stopped in the middle of its writes
			n := done()
			await(t, "newer requests", func() bool { return done() >= n+betweenCrash/2 })
			_ = unix.Kill(old.PID(), unix.SIGCONT) // what it was about to write lands now
		})
		mu.Lock()
		defer mu.Unlock()
		for _, p := range spared {
			_ = p.stopNow()
		}
		spared = nil
		return h
	})
}
