// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
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
	"github.com/flexnbd/flexnbd/sdk/wire/wiretest"
)

func init() { roles["test-slow"] = func() { serveBackend(openSlow) } }

// slow is a file whose writes take a while, before and behind the moment when
// they land, so that a crash meets them in every state. It lends what it lends.
type slow struct {
	*fdstore.Store
	loan *store.Loan
}

func openSlow(_ context.Context, disk sdk.Disk) (store.Store, error) {
	f := disk.Lease
	if f == nil {
		var err error
		if f, err = os.OpenFile(disk.Location, os.O_RDWR, 0); err != nil {
			return nil, err
		}
	}
	s, err := fdstore.New(f, fdstore.Options{})
	if err != nil {
		return nil, err
	}
	return slow{s, slowLoan(s, disk.Options["starts"])}, nil
}

// slowLoan lends each time, unless there is a file to count starts in: then the first
// of three lends, the next lends and takes it back, the third lends nothing.
func slowLoan(s *fdstore.Store, starts string) *store.Loan {
	counter, err := os.OpenFile(starts, os.O_RDWR|os.O_APPEND, 0)
	if err != nil {
		return s.Lend()
	}
	defer func() { _ = counter.Close() }()
	before, err := io.ReadAll(counter)
	_, _ = counter.WriteString(".")
	switch {
	case err != nil || len(before)%3 == 2:
		return nil
	case len(before)%3 == 1:
		time.AfterFunc(rand.N(20*time.Millisecond), func() { _ = s.Lend().Revoke(context.Background()) })
	}
	return s.Lend()
}

func (s slow) Lend() *store.Loan { return s.loan }

func (s slow) PunchHole(ctx context.Context, off, length int64, flags store.Flags) error {
	time.Sleep(rand.N(3 * time.Millisecond))
	err := s.Store.PunchHole(context.WithoutCancel(ctx), off, length, flags)
	time.Sleep(rand.N(3 * time.Millisecond))
	return err
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
	var crashed atomic.Bool
	begin := time.Now()
	const total = crashes * betweenCrash
	var clients sync.WaitGroup
	for client := range contenders {
		clients.Go(func() {
			for n := done.Add(1); n <= total || !crashed.Load(); n = done.Add(1) {
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
						binary.LittleEndian.PutUint64(p[i*sector:], v)
					}
					err = s.WriteAt(context.Background(), p, int64(first*sector), 0)
				} else {
					err = s.ReadAt(context.Background(), p, int64(first*sector))
				}
				ret := time.Since(begin)
				for i := range values { // a write may have been made a punch
					values[i] = binary.LittleEndian.Uint64(p[i*sector:])
				}
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
	crashed.Store(true)
	clients.Wait()
	return h
}

// slowDisk opens a disk in a slow plugin.
func slowDisk(t *testing.T, options map[string]string, lanes ...string) *Disk {
	t.Helper()
	image := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(image, make([]byte, sectors*sector), 0o600); err != nil {
		t.Fatal(err)
	}
	h, _ := newHost(t)
	d, err := h.OpenDisk(t.Context(), self("test-slow"), wire.Disk{Location: image, Options: options, Lanes: lanes})
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
	d := slowDisk(t, nil)
	h := contend(t, d, func(i int, _ func() int64) { strike(t, d, i) })
	if !h.linearizable(t) {
		t.Error("a crash showed")
	}
	if d.Restarts() < crashes-1 {
		t.Errorf("%d restarts, want at least %d", d.Restarts(), crashes-1)
	}
}

// mixed is a disk as a connection uses it: reads and most writes take the lane, what
// the plugin has to do is between them.
type mixed struct {
	store.Store // over a queue
	disk        *Disk
	lane        string
	fast, slow  atomic.Int64 // requests that found the disk on that lane, and on the rpc lane
	changing    atomic.Int64 // changes that the plugin has to make are under way
}

func newMixed(t *testing.T, d *Disk, lane string) *mixed {
	t.Helper()
	return &mixed{disk: d, lane: lane, Store: wiretest.OverQueue(d, func(sink wire.Sink) wire.Queue {
		queue := d.NewQueue(context.Background(), sink)
		t.Cleanup(func() { _ = queue.Close() })
		return queue
	})}
}

// pause keeps requests on a fast lane from being all over before a process is
// started.
func (m *mixed) pause() {
	time.Sleep(rand.N(2 * time.Millisecond))
	if m.disk.Lane() == m.lane {
		m.fast.Add(1)
	} else {
		m.slow.Add(1)
	}
}

func (m *mixed) ReadAt(ctx context.Context, p []byte, off int64) error {
	m.pause()
	return m.Store.ReadAt(ctx, p, off)
}

func (m *mixed) WriteAt(ctx context.Context, p []byte, off int64, flags store.Flags) error {
	m.pause()
	rarely := 6 // or all of them would soon wait for the next process
	if m.disk.State() == "restarting" {
		rarely = 64
	}
	switch rand.IntN(rarely) {
	case 0:
		m.changing.Add(1)
		defer m.changing.Add(-1)
		clear(p)
		return m.PunchHole(ctx, off, int64(len(p)), flags)
	case 1, 2:
		m.changing.Add(1)
		defer m.changing.Add(-1)
		flags |= store.FUA
	}
	return m.Store.WriteAt(ctx, p, off, flags)
}

// strike has the process crash in the middle of changes.
func (m *mixed) strike(t *testing.T, i int) {
	t.Helper()
	await(t, "changes are under way", func() bool { return m.changing.Load() >= 2 })
	strike(t, m.disk, i)
}

func TestHistoryOverMixedLanesIsLinearizable(t *testing.T) {
	starts := filepath.Join(t.TempDir(), "starts")
	if err := os.WriteFile(starts, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d := slowDisk(t, map[string]string{"starts": starts}, wire.LaneFile, wire.LaneRPC)
	m := newMixed(t, d, wire.LaneFile)
	h := contend(t, m, func(i int, _ func() int64) { m.strike(t, i) })
	if !h.linearizable(t) {
		t.Error("a lane, or a crash, showed")
	}
	if m.fast.Load() == 0 || m.slow.Load() == 0 {
		t.Errorf("%d requests on the file lane, %d on the rpc lane", m.fast.Load(), m.slow.Load())
	}
}

func TestLaneWithoutTurnsIsNoticed(t *testing.T) {
	noticed(t, func() *history {
		d := slowDisk(t, nil, wire.LaneFile, wire.LaneRPC)
		d.laneTakesNoTurns()
		m := newMixed(t, d, wire.LaneFile)
		return contend(t, m, func(i int, _ func() int64) { m.strike(t, i) })
	})
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
		d := slowDisk(t, nil)
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
		d := slowDisk(t, nil)
		return contend(t, noPlace{d, new(atomic.Int64), new(atomic.Bool)}, func(i int, _ func() int64) { strike(t, d, i) })
	})
}

// hangUp breaks the line to a process, and lets it live.
func (p *Process) hangUp() error {
	protocol, err := p.client.Client()
	if err != nil {
		return err
	}
	return protocol.(*plugin.GRPCClient).Conn.Close()
}

func TestRepeatBeforeTheOldProcessIsReapedIsNoticed(t *testing.T) {
	var mu sync.Mutex
	var spared []*Process
	endOld = func(p *Process) error {
		mu.Lock()
		defer mu.Unlock()
		spared = append(spared, p)
		return p.hangUp()
	}
	t.Cleanup(func() { endOld = (*Process).endLost })
	noticed(t, func() *history {
		d := slowDisk(t, nil)
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
