// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/sdk/rangelock"
	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/wire"
	"github.com/flexnbd/flexnbd/sdk/wire/filelane"
)

// lending opens a disk whose plugin lends its descriptor.
func lending(t *testing.T) *tortured {
	t.Helper()
	d := torture(t, nil, wire.LaneFile, wire.LaneRPC)
	if d.Lane() != wire.LaneFile {
		t.Fatalf("the lane is %s", d.Lane())
	}
	return d
}

const refusedLoan = "the backend's descriptor can't be used"

func TestLaneIsTheFirstThatBothCanDo(t *testing.T) {
	both := []string{wire.LaneFile, wire.LaneRPC}
	for _, c := range []struct {
		lanes  []string
		how    string // the order about the loan
		want   string
		reason string // in a warning
	}{
		{lanes: both, want: wire.LaneFile},
		{lanes: []string{wire.LaneFile}, want: wire.LaneFile},
		{lanes: []string{wire.LaneRPC, wire.LaneFile}, want: wire.LaneRPC},
		{lanes: []string{wire.LaneRPC}, want: wire.LaneRPC},
		{want: wire.LaneRPC},
		{lanes: both, how: "no", want: wire.LaneRPC},
		{lanes: both, how: "bad", want: wire.LaneRPC, reason: "opened for reading only"},
	} {
		t.Run(fmt.Sprint(c.lanes, c.how), func(t *testing.T) {
			s := script(t.TempDir())
			if c.how != "" {
				s.order(t, c.how, "loan")
			}
			d := tortureIn(t, self("test-script"), s, nil, c.lanes...)
			if c.want == wire.LaneFile {
				d.onFile(connect(t, d), "text")
			} else {
				d.onRPC(connect(t, d), "text")
			}
			warnings := 0
			if c.reason != "" {
				warnings = 1
			}
			if d.logged(refusedLoan) != warnings || !strings.Contains(d.log.String(), c.reason) {
				t.Errorf("log, which should name %q:\n%s", c.reason, d.log)
			}
		})
	}
}

func TestDiskIsNotOpenedWithoutTheOnlyLaneThatWillDo(t *testing.T) {
	for how, want := range map[string]string{"no": "does not lend its descriptor", "bad": "opened for reading only"} {
		d := torture(t, nil) // for its image
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		h, _ := newHost(t)
		before := descriptors(t)
		d.order(t, how, "loan")
		_, err := h.OpenDisk(t.Context(), self("test-script"), wire.Disk{
			Location: d.image, Options: map[string]string{"script": string(d.script)}, Lanes: []string{wire.LaneFile},
		})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("OpenDisk: %v, want %s", err, want)
		}
		settled(t, before)
		if !d.thief()() {
			t.Error("the image is still locked")
		}
	}
}

func TestOnlyWhatBytesDoNotDoReachesThePlugin(t *testing.T) {
	d := lending(t)
	c := connect(t, d)
	d.onFile(c, "text")
	lent := c.occupy()
	got := make([]byte, 4)
	if err := lent.ReadAt(got, 5000); err != nil || string(got) != "text" {
		t.Errorf("from the descriptor come %q, %v", got, err)
	}
	lent.Leave()
	d.evict()
	if got := c.read(5000, 4); got != "text" {
		t.Errorf("from the device comes %q", got)
	}
	if got := d.journal(t); got != "" {
		t.Errorf("the plugin did %q", got)
	}
	for _, r := range []wire.Request{
		{Op: wire.OpZero, Offset: 5000, Length: 2},
		{Op: wire.OpWrite, Flags: store.FUA, Offset: 5003, Length: 1, Data: &wire.Payload{Bytes: []byte("p")}},
		{Op: wire.OpFlush},
	} {
		if err := c.wait(c.submit(r)); err != nil {
			t.Errorf("%v: %v", r.Op, err)
		}
	}
	if got := d.journal(t); got != "punch write flush" {
		t.Errorf("the plugin did %q", got)
	}
	if got := c.read(5000, 4); got != "\x00\x00xp" {
		t.Errorf("the disk has %q", got)
	}
}

func TestFileLaneGoesOnWhileTheBackendIsReplaced(t *testing.T) {
	shorten(t, &lastPause, firstPause)
	d := lending(t)
	c := connect(t, d)
	for i, signal := range []syscall.Signal{unix.SIGKILL, unix.SIGSTOP} {
		old := d.loan
		n := d.Restarts()
		d.order(t, "fail", "open")
		d.signal(signal)
		for j := range 100 {
			c.write(5000, fmt.Sprintf("%d.%03d", i, j))
		}
		d.awaitState("restarting")
		flush := c.submit(wire.Request{Op: wire.OpFlush})
		await(t, "a start that fails", func() bool { return d.logged("can't be started again yet") > 0 })
		for j := range 100 {
			text := fmt.Sprintf("%d.%03d", i, j)
			c.write(5000, text)
			if got := c.read(5000, 5); got != text {
				t.Fatalf("%q was read, and %q written", got, text)
			}
		}
		if d.State() != "restarting" || flush.ended() {
			t.Fatalf("the disk is %s: this test has lost its point", d.State())
		}
		if got := d.journal(t); strings.Contains(got, "write") || strings.Contains(got, "read") {
			t.Errorf("the plugin did %q", got)
		}
		d.countermand(t, "fail", "open")
		d.awaitRestart(n)
		if err := c.wait(flush); err != nil {
			t.Errorf("the flush that waited: %v", err)
		}
		if d.loan == old || !isOver(old) {
			t.Error("the loan of the old process is still in use")
		}
		d.onFile(c, "after")
	}
	if d.logged("lane=file") != 2 {
		t.Errorf("log:\n%s", d.log)
	}
}

// A successor may do with the bytes what it likes, once it serves. So it serves when
// nobody uses them any more.
func TestSuccessorServesOnceTheOldLoanIsOver(t *testing.T) {
	d := lending(t)
	c := connect(t, d)
	d.OnRestart(func() { d.note("hook") })
	lent := c.occupy()
	d.order(t, "no", "loan")
	d.journal(t)
	d.signal(unix.SIGKILL)
	await(t, "nobody may use the loan", func() bool { return isEnding(lent) })
	read, write := c.startRead(0, 1, true), c.startWrite(9000, "w", 0)
	if d.State() != "restarting" || read.ended() || write.ended() || isOver(lent) {
		t.Errorf("the disk is %s, and somebody uses the loan", d.State())
	}
	d.note("leave")
	lent.Leave()
	for _, r := range []*request{read, write} {
		if err := c.wait(r); err != nil || r.Lent != nil {
			t.Errorf("%v: %v", r.Op, err)
		}
	}
	got := d.journal(t)
	if !slices.Contains([]string{"lease open leave hook read write", "lease open leave hook write read"}, got) {
		t.Errorf("the order was %q", got)
	}
	d.onRPC(c, "text")
	if d.logged("lane=rpc") != 1 || d.logged(refusedLoan) != 0 {
		t.Errorf("log:\n%s", d.log)
	}
	d.countermand(t, "no", "loan")
	d.crash()
	d.onFile(c, "back")
}

// Without a lease the next process locks the image anew.
func TestLoanDoesNotKeepASuccessorFromTheLock(t *testing.T) {
	d := torture(t, map[string]string{"lease": "none"}, wire.LaneFile, wire.LaneRPC)
	c := connect(t, d)
	for range 2 {
		d.onFile(c, "text")
		d.crash()
	}
	d.onFile(c, "text")
	if d.logged("can't be started") != 0 {
		t.Errorf("log:\n%s", d.log)
	}
}

func TestLoansLeaveNoDescriptorBehind(t *testing.T) {
	old := maxRestarts
	maxRestarts = 100
	t.Cleanup(func() { maxRestarts = old })
	d := lending(t)
	c := connect(t, d)
	d.crash()
	before := descriptors(t)
	for i := range 20 {
		switch i % 4 {
		case 1:
			d.order(t, "no", "loan")
		case 2:
			d.countermand(t, "no", "loan")
			d.order(t, "bad", "loan")
		case 3:
			d.countermand(t, "bad", "loan")
		}
		d.crash()
		c.write(0, "text")
	}
	await(t, fmt.Sprintf("%d descriptors are open again", before), func() bool { return descriptors(t) <= before })
	d.onFile(c, "text")
}

// changes are what reaches the plugin and is repeated after a crash. Each of them
// changes the first bytes.
var changes = map[string]func(*connection) *request{
	"punch": func(c *connection) *request { return c.startPunch(0, 10) },
	"write": func(c *connection) *request { return c.startWrite(0, "older-----", store.FUA) },
}

// overtake has a change crash after the plugin has carried it out, and writes to the
// same place meanwhile. It returns what is left there.
func (d *tortured) overtake(op string) string {
	d.t.Helper()
	c := connect(d.t, d)
	d.order(d.t, "keep", op)
	older := changes[op](c)
	d.awaitHeld(d.t, op)
	newer := c.startWrite(0, "newer", 0)
	d.journal(d.t)
	c.write(10, "elsewhere") // does not wait
	if older.ended() || d.peek() != "" {
		d.t.Errorf("the plugin did %q", d.peek())
	}
	d.crash()
	if err := errors.Join(c.wait(older), c.wait(newer)); err != nil {
		d.t.Error(err)
	}
	if d.Lane() != wire.LaneFile || c.read(10, 9) != "elsewhere" {
		d.t.Errorf("elsewhere is %q, on lane %s", c.read(10, 9), d.Lane())
	}
	return c.read(0, 5)
}

func TestRepeatNeverLandsOnNewerWritesOfTheFileLane(t *testing.T) {
	for op := range changes {
		if got := lending(t).overtake(op); got != "newer" {
			t.Errorf("after a repeated %s the disk has %q", op, got)
		}
	}
}

func TestRepeatOnNewerWritesIsNoticed(t *testing.T) {
	for op := range changes {
		d := lending(t)
		d.laneTakesNoTurns()
		if got := d.overtake(op); got == "newer" {
			t.Errorf("a lane with a lock of its own overtook a %s, and nothing came of it", op)
		}
	}
}

// laneTakesNoTurns gives the file lane another lock than the one that calls take.
// There must be no queue yet.
func (d *Disk) laneTakesNoTurns() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lane = filelane.New(new(rangelock.Lock))
	d.lane.Use(d.loan)
}

// A change that is not repeated fails, and what comes next on the lane is newer.
func TestFailedChangeKeepsItsPlaceUntilItsProcessIsReaped(t *testing.T) {
	holding, release := context.WithCancel(t.Context())
	endOld = func(p *Process) error {
		<-holding.Done()
		return p.endLost()
	}
	t.Cleanup(func() { endOld = (*Process).endLost })
	d := lending(t)
	t.Cleanup(release) // also after a failure, before the disk is closed
	d.flushRepeatable = false
	c := connect(t, d)
	older := d.inFlight("keep", "write", func() error { return d.WriteAt(t.Context(), []byte("older"), 0, store.FUA) })
	newer := c.startWrite(0, "newer", 0)
	if err := d.Process().hangUp(); err != nil {
		t.Fatal(err)
	}
	d.awaitState("restarting")
	select {
	case err := <-older:
		t.Fatalf("it failed (%v) while its process might still write", err)
	case <-newer.done:
		t.Fatal("a newer write went ahead while the old process might still write")
	case <-time.After(50 * time.Millisecond): // or never
	}
	release()
	if err := <-older; !is(err, wire.ErrPluginGone) {
		t.Errorf("the change: %v", err)
	}
	if err := c.wait(newer); err != nil || c.read(0, 5) != "newer" {
		t.Errorf("the newer write: %v", err)
	}
}

func TestHungBackendIsReplacedWhileAllTrafficTakesTheFileLane(t *testing.T) {
	impatient(t)
	s := script(t.TempDir())
	d := tortureIn(t, mute(t, wire.KindBackend, s), s, nil, wire.LaneFile, wire.LaneRPC)
	c := connect(t, d)
	d.onFile(c, "before")
	old := d.Process()
	s.order(t, "hold", "describe")
	s.awaitHeld(t, "describe")
	for began := time.Now(); d.Restarts() == 0 && time.Since(began) < patience; {
		c.write(5000, "during")
	}
	_ = exited(t, old)
	if d.logged("does not answer and is given up") != 1 || d.logged("unexpectedly") != 0 {
		t.Errorf("log:\n%s", d.log)
	}
	d.onFile(c, "after")
}

func TestAbandonedDiskFailsWhateverItsLaneWas(t *testing.T) {
	d := lending(t)
	c := connect(t, d)
	lent := c.occupy()
	d.order(t, "hold", "punch")
	punch := c.startPunch(0, 10)
	d.awaitHeld(t, "punch")
	write := c.startWrite(0, "waits for the punch", 0)
	if err := d.Abandon(); err != nil {
		t.Error(err)
	}
	requests := c.calls()
	maps.Copy(requests, map[string]*request{"punch in flight": punch, "write behind it": write})
	for name, r := range requests {
		if err := c.wait(r); !is(err, ErrAbandoned) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if !isEnding(lent) || d.Lane() != wire.LaneRPC {
		t.Errorf("the loan goes on: lane %s", d.Lane())
	}
	d.closesBehind(lent)
}

func TestClosedDiskWaitsForItsLoan(t *testing.T) {
	d := lending(t)
	d.closesBehind(connect(t, d).occupy())
}

// closesBehind closes the disk while the test is inside the loan, which has the
// image's lock with it.
func (d *tortured) closesBehind(lent *wire.Lent) {
	d.t.Helper()
	steal := d.thief()
	closed := make(chan error, 1)
	go func() { closed <- d.Close() }()
	await(d.t, "the loan ends", func() bool { return isEnding(lent) })
	d.awaitState("failed")
	if isOver(lent) || steal() {
		d.t.Error("the lock is free while somebody uses the descriptor")
	}
	select {
	case err := <-closed:
		d.t.Fatalf("Close returned (%v) while the lock was not free", err)
	case <-time.After(50 * time.Millisecond): // or never
	}
	lent.Leave()
	if err := <-closed; err != nil {
		d.t.Errorf("Close: %v", err)
	}
	if !steal() {
		d.t.Error("the lock is still held after Close")
	}
}
