// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/sdk/rangelock"
	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/wire"
	"github.com/flexnbd/flexnbd/sdk/wire/ringlane"
	"github.com/flexnbd/flexnbd/sdk/wire/wiretest"
)

// rubbishDisk opens a disk in a plugin that does something with its rings that it
// should not.
func rubbishDisk(t *testing.T, way string) *tortured {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s := script(t.TempDir())
	d := tortureIn(t, bash(`exec 9>&1; exec -a test-rubbish "$0" "$@"`, path, string(s), way), s, nil, wire.LaneRing, wire.LaneRPC)
	if d.Lane() != wire.LaneRing {
		t.Fatalf("the lane is %s", d.Lane())
	}
	return d
}

// overRing is a disk as a connection uses it, once it has its ring.
func overRing(t *testing.T, d *Disk) store.Store {
	t.Helper()
	var queue wire.Queue
	s := wiretest.OverQueue(d, func(sink wire.Sink) wire.Queue {
		queue = d.NewQueue(context.Background(), sink)
		return queue
	})
	t.Cleanup(func() {
		if t.Failed() {
			_ = d.Abandon() // or Close might wait for ever
		}
		_ = queue.Close()
	})
	await(t, "a ring", func() bool { return ringlane.Attached(queue) })
	return s
}

// neighbour is another disk of the same host, with a connection of its own.
func neighbour(t *testing.T) (s store.Store, unchanged func()) {
	t.Helper()
	h, _ := newHost(t)
	d, err := h.OpenDisk(t.Context(), self("test-memory"), wire.Disk{Location: "1048576", Lanes: []string{wire.LaneRing}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	s = overRing(t, d)
	want := bytes.Repeat([]byte("mine"), 1<<18)
	if err := s.WriteAt(t.Context(), want, 0, 0); err != nil {
		t.Fatal(err)
	}
	return s, func() {
		t.Helper()
		got := make([]byte, len(want))
		if err := s.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, want) {
			t.Errorf("another disk has other data now (%v)", err)
		}
	}
}

// A plugin that says what can't be is believed nothing more: its disk fails, with a line
// that says why, and nobody else notices.
func TestRubbishOnARingFailsItsDisk(t *testing.T) {
	for way, words := range map[string]string{
		"answers with rubbish":      "0xabababababababab, which is not under way",
		"answers twice":             "which is not under way",
		"answers what nobody asked": "which is not under way",
		"lies about lengths":        "was completed with 4294967295",
	} {
		t.Run(way, func(t *testing.T) {
			_, unchanged := neighbour(t)
			d := rubbishDisk(t, way)
			s := overRing(t, d.Disk)
			// One of two may have been answered before the rubbish was noticed.
			for range 2 {
				if err := s.ReadAt(t.Context(), make([]byte, 4096), 0); err != nil && !errors.Is(err, store.ErrIO) {
					t.Errorf("the read ended with %v", err)
				}
			}
			d.awaitState("failed")
			await(t, "a line in the log", func() bool { return d.logged("the disk has failed for good") == 1 })
			if !strings.Contains(d.log.String(), words) || d.logged("broken its line") != 0 {
				t.Errorf("log, which should say %q:\n%s", words, d.log)
			}
			if err := d.WriteAt(t.Context(), make([]byte, 10), 0, 0); !errors.Is(err, store.ErrIO) {
				t.Errorf("a write to the failed disk: %v", err)
			}
			unchanged()
		})
	}
}

// The memory can't be taken away, and what is scribbled into it is this disk's alone.
func TestMemoryOfARingStays(t *testing.T) {
	_, unchanged := neighbour(t)
	d := rubbishDisk(t, "takes the memory away")
	d.journal(t)
	s := overRing(t, d.Disk)
	got := make([]byte, 4096)
	if err := s.ReadAt(t.Context(), got, 0); err != nil {
		t.Error(err)
	}
	if journal := d.journal(t); journal != "EPERM EPERM EPERM" {
		t.Errorf("changing the memory's size: %s", journal)
	}
	unchanged()
}

// A plugin that does not read is replaced once; requests are repeated as calls.
func TestRingThatIsNotReadIsGivenUp(t *testing.T) {
	impatient(t)
	_, unchanged := neighbour(t)
	d := rubbishDisk(t, "does not read")
	s := overRing(t, d.Disk)
	got := make([]byte, 10)
	if err := s.ReadAt(t.Context(), got, 0); err != nil || string(got) != "oooooooooo" {
		t.Errorf("the read ended with %q, %v", got, err)
	}
	if d.Restarts() != 1 || d.logged("does not read its rings and is given up") != 1 {
		t.Errorf("%d restarts; log:\n%s", d.Restarts(), d.log)
	}
	again := overRing(t, d.Disk)
	if err := again.ReadAt(t.Context(), got, 0); !errors.Is(err, store.ErrIO) {
		t.Errorf("the second read ended with %v", err)
	}
	await(t, "the reason in the log", func() bool { return d.logged("neither did the process before it") == 1 })
	unchanged()
}

// A plugin that closes rings is taken for one that has lost its line.
func TestRingThatEndsIsALostProcess(t *testing.T) {
	d := rubbishDisk(t, "hangs up")
	s := overRing(t, d.Disk)
	got := make([]byte, 10)
	if err := s.ReadAt(t.Context(), got, 0); err != nil || string(got) != "oooooooooo" {
		t.Errorf("the read ended with %q, %v", got, err)
	}
	if d.Restarts() != 1 {
		t.Errorf("%d restarts; log:\n%s", d.Restarts(), d.log)
	}
}

func TestHistoryOverRingsIsLinearizable(t *testing.T) {
	d := slowDisk(t, nil, wire.LaneRing)
	m := newMixed(t, d, wire.LaneRing)
	defer func() {
		if m.fast.Load() == 0 {
			t.Error("no request found the disk on the ring lane")
		}
	}()
	h := contend(t, m, func(i int, _ func() int64) { m.strike(t, i) })
	if !h.linearizable(t) {
		t.Error("a ring, or a crash, showed")
	}
	if d.Restarts() < crashes-1 {
		t.Errorf("%d restarts, want at least %d", d.Restarts(), crashes-1)
	}
}

// gatedRepeats repeats when a test says so.
type gatedRepeats struct {
	ringCalls
	gate chan struct{}
}

func (c gatedRepeats) Repeat(p ringlane.Process, r *wire.Request) error {
	<-c.gate
	return c.ringCalls.Repeat(p, r)
}

// afterACrash has a write over a ring land, and its process crash before it is told; a
// newer write of the same bytes then comes as a call. It returns what the disk has in the
// end. The ring lane takes lock.
func afterACrash(t *testing.T, lock func(*Disk) *rangelock.Lock) string {
	t.Helper()
	s := script(t.TempDir())
	d := tortureIn(t, self("test-script"), s, nil, wire.LaneRing)
	repeats := gatedRepeats{ringCalls{d.Disk}, make(chan struct{})}
	d.mu.Lock()
	d.rings = ringlane.New(lock(d.Disk), repeats)
	d.useRings(d.current)
	d.mu.Unlock()
	over := overRing(t, d.Disk)
	s.order(t, "keep", "write")
	old, newer := make(chan error, 1), make(chan error, 1)
	go func() { old <- over.WriteAt(context.Background(), []byte("old"), 0, 0) }()
	s.awaitHeld(t, "write")
	n := d.Restarts()
	d.signal(unix.SIGKILL)
	d.awaitRestart(n)
	go func() { newer <- d.WriteAt(context.Background(), []byte("new"), 0, 0) }()
	if lock(d.Disk) == &d.ranges {
		close(repeats.gate)
	}
	if err := <-newer; err != nil {
		t.Error(err)
	}
	if lock(d.Disk) != &d.ranges {
		close(repeats.gate)
	}
	if err := <-old; err != nil {
		t.Error(err)
	}
	got := make([]byte, 3)
	if err := d.ReadAt(t.Context(), got, 0); err != nil {
		t.Error(err)
	}
	return string(got)
}

// A repeat keeps its place: what is newer waits for it. Where rings and calls take turns
// apart, it does not, and the disk ends with something that had been overwritten.
func TestRepeatOverARingKeepsItsPlace(t *testing.T) {
	if got := afterACrash(t, func(d *Disk) *rangelock.Lock { return &d.ranges }); got != "new" {
		t.Errorf("the disk has %q", got)
	}
	var apart rangelock.Lock
	if got := afterACrash(t, func(*Disk) *rangelock.Lock { return &apart }); got != "old" {
		t.Errorf("the disk has %q: this test has lost its point", got)
	}
}

// What a new process does not survive, it does not survive on a ring either.
func TestChangesThatMustNotBeRepeatedFail(t *testing.T) {
	s := script(t.TempDir())
	d := tortureIn(t, self("test-script"), s, map[string]string{"replayable": "no"}, wire.LaneRing)
	over := overRing(t, d.Disk)
	s.order(t, "hold", "write")
	ended := make(chan error, 1)
	go func() { ended <- over.WriteAt(context.Background(), []byte("new"), 0, 0) }()
	s.awaitHeld(t, "write")
	d.signal(unix.SIGKILL)
	if err := <-ended; !errors.Is(err, wire.ErrPluginGone) {
		t.Errorf("the write ended with %v", err)
	}
	got := make([]byte, 3)
	if err := over.ReadAt(t.Context(), got, 0); err != nil || string(got) != "ooo" {
		t.Errorf("the disk has %q (%v)", got, err)
	}
}
