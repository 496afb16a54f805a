// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/sdk/store"
	"github.com/flexnbd/flexnbd/sdk/wire"
	"github.com/flexnbd/flexnbd/sdk/wire/wiretest"
)

// tortured is a disk in a scripted plugin.
type tortured struct {
	*Disk
	script
	t     *testing.T
	log   *logBuffer
	image string

	before int // descriptors open before the disk was
}

const torturedSize = wire.MaxPayload // so that the longest read is one of all of it

// torture opens a disk that is closed at the end of the test.
func torture(t *testing.T, options map[string]string, lanes ...string) *tortured {
	t.Helper()
	return tortureIn(t, self("test-script"), script(t.TempDir()), options, lanes...)
}

func tortureIn(t *testing.T, program Program, s script, options map[string]string, lanes ...string) *tortured {
	t.Helper()
	d := &tortured{t: t, script: s, image: filepath.Join(wiretest.FolderOnDisk(t), "disk.img")}
	if err := os.WriteFile(d.image, bytes.Repeat([]byte{'o'}, torturedSize), 0o600); err != nil {
		t.Fatal(err)
	}
	all := map[string]string{"script": string(s)}
	maps.Copy(all, options)
	var h *Host
	h, d.log = newHost(t)
	d.before = descriptors(t)
	var err error
	if d.Disk, err = h.OpenDisk(t.Context(), program, wire.Disk{Location: d.image, Options: all, Lanes: lanes}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return d
}

// order leaves an order for the plugin, countermand takes it back.
func (s script) order(t *testing.T, order, op string) {
	t.Helper()
	if err := os.WriteFile(s.path(order, op), nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (s script) countermand(t *testing.T, order, op string) {
	t.Helper()
	if err := os.Remove(s.path(order, op)); err != nil {
		t.Fatal(err)
	}
}

// awaitHeld waits until an op is held.
func (s script) awaitHeld(t *testing.T, op string) {
	t.Helper()
	await(t, op+" is held", func() bool { return s.has("reached", op) })
	s.countermand(t, "reached", op)
}

// journal is what plugins have done since it was asked for last.
func (s script) journal(t *testing.T) string {
	t.Helper()
	path := filepath.Join(string(s), "journal")
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	_ = os.Remove(path)
	return strings.Join(strings.Fields(string(b)), " ")
}

// signal sends one to the process that serves the disk now.
func (d *tortured) signal(s syscall.Signal) {
	d.t.Helper()
	if err := unix.Kill(d.Process().PID(), s); err != nil {
		d.t.Fatal(err)
	}
}

// crash kills the process and waits for the next one.
func (d *tortured) crash() {
	d.t.Helper()
	n := d.Restarts()
	d.signal(unix.SIGKILL)
	d.awaitRestart(n)
}

func (d *tortured) awaitRestart(n int) {
	d.t.Helper()
	await(d.t, "a restart", func() bool { return d.Restarts() > n || d.State() == "failed" })
	if d.State() == "failed" {
		d.t.Fatal("the disk has failed")
	}
}

func (d *tortured) awaitState(state string) {
	d.t.Helper()
	await(d.t, "the disk is "+state, func() bool { return d.State() == state })
}

func (d *tortured) logged(text string) int { return strings.Count(d.log.String(), text) }

// inFlight starts a call that the plugin holds.
func (d *tortured) inFlight(order, op string, call func() error) <-chan error {
	d.t.Helper()
	d.order(d.t, order, op)
	result := make(chan error, 1)
	go func() { result <- call() }()
	d.awaitHeld(d.t, op)
	return result
}

// calls are one call of each kind, and what they have to find or leave behind.
func (d *tortured) calls(ctx context.Context) map[string]func() error {
	p := bytes.Repeat([]byte{'n'}, 100)
	return map[string]func() error{
		"read": func() error {
			got := make([]byte, 10)
			err := d.ReadAt(ctx, got, 0)
			if err == nil && string(got) != "oooooooooo" {
				err = fmt.Errorf("read %q", got)
			}
			return err
		},
		"write": func() error { return d.WriteAt(ctx, p, 1000, 0) },
		"punch": func() error { return d.PunchHole(ctx, 2000, 100, 0) },
		"extents": func() error {
			extents, err := d.Extents(ctx, 0, torturedSize)
			if err == nil && len(extents) == 0 {
				err = errors.New("no extents")
			}
			return err
		},
		"flush": func() error { return d.Flush(ctx) },
	}
}

func (d *tortured) content(off, n int64) string {
	d.t.Helper()
	p := make([]byte, n)
	if err := d.ReadAt(d.t.Context(), p, off); err != nil {
		d.t.Fatal(err)
	}
	return string(p)
}

func TestCallInFlightAtACrashIsRepeated(t *testing.T) {
	d := torture(t, nil)
	ended := 0
	for _, signal := range []syscall.Signal{unix.SIGKILL, unix.SIGSTOP} {
		for op, call := range d.calls(t.Context()) {
			n := d.Restarts()
			result := d.inFlight("hold", op, call)
			d.signal(signal)
			if err := <-result; err != nil {
				t.Errorf("%s through %v: %v", op, signal, err)
			}
			if d.Restarts() != n+1 {
				t.Errorf("%s through %v: %d restarts, want 1", op, signal, d.Restarts()-n)
			}
			if signal == unix.SIGKILL {
				ended++
			}
			if n := d.logged("ended unexpectedly"); n != ended || d.logged(`how="signal: killed"`) != ended {
				t.Fatalf("%s through %v: %d ends are in the log, want %d:\n%s", op, signal, n, ended, d.log)
			}
		}
	}
	if got := d.content(1000, 100); got != strings.Repeat("n", 100) {
		t.Errorf("the write left %q", got)
	}
	if got := d.content(2000, 100); got != strings.Repeat("\x00", 100) {
		t.Errorf("the punch left %q", got)
	}
	if n := d.logged("was stopped by a signal and is given up"); n != 5 {
		t.Errorf("%d stops are in the log, want 5", n)
	}
}

func TestCallsBehindACrashAreCarriedOutInOrder(t *testing.T) {
	d := torture(t, nil)
	first := d.inFlight("keep", "write", func() error { return d.WriteAt(t.Context(), []byte("first"), 0, 0) })
	second := make(chan error, 1)
	go func() { second <- d.WriteAt(t.Context(), []byte("later"), 0, 0) }()
	d.crash()
	if err := errors.Join(<-first, <-second); err != nil {
		t.Fatal(err)
	}
	if got := d.content(0, 5); got != "later" {
		t.Errorf("the disk has %q", got)
	}
}

func TestIdleCrashIsNoticed(t *testing.T) {
	d := torture(t, nil)
	for i, signal := range []syscall.Signal{unix.SIGKILL, unix.SIGSTOP} {
		d.signal(signal)
		d.awaitRestart(i)
	}
	if got := d.journal(t); got != "open lease open lease open" {
		t.Errorf("the plugins did %q", got)
	}
}

// mute is a plugin that stops to answer without being stopped.
func mute(t *testing.T, kind wire.Kind, s script) Program {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := bash(`exec 9>&1; exec -a test-mute "$0" "$@"`, path, kind.String(), string(s))
	p.Kind = kind
	return p
}

// impatient shortens the heartbeat.
func impatient(t *testing.T) {
	shorten(t, &beat, 10*time.Millisecond)
	shorten(t, &hangTimeout, 300*time.Millisecond)
}

func TestHungBackendIsKilledAndReplaced(t *testing.T) {
	impatient(t)
	s := script(t.TempDir())
	d := tortureIn(t, mute(t, wire.KindBackend, s), s, nil)
	result := d.inFlight("hold", "write", d.calls(t.Context())["write"])
	old := d.Process()
	s.order(t, "hold", "describe")
	if err := <-result; err != nil {
		t.Errorf("the write: %v", err)
	}
	_ = exited(t, old)
	if d.logged("does not answer and is given up") != 1 || d.logged("unexpectedly") != 0 {
		t.Errorf("log:\n%s", d.log)
	}
}

func TestStopDuringTheHeartbeatIsNoticedAtOnce(t *testing.T) {
	shorten(t, &beat, 10*time.Millisecond)
	s := script(t.TempDir())
	d := tortureIn(t, mute(t, wire.KindBackend, s), s, nil)
	s.order(t, "hold", "describe")
	s.awaitHeld(t, "describe")
	began := time.Now()
	d.signal(unix.SIGSTOP)
	d.awaitRestart(0)
	if took := time.Since(began); took >= hangTimeout {
		t.Errorf("it took %v", took)
	}
}

func TestNothingThatDiedWithTheBackendComesBack(t *testing.T) {
	d := torture(t, map[string]string{"survives": "0"})
	result := d.inFlight("hold", "write", d.calls(t.Context())["write"])
	d.signal(unix.SIGKILL)
	if err := <-result; store.Errno(err) != syscall.EIO {
		t.Errorf("the write in flight: %v", err)
	}
	for op, call := range d.calls(t.Context()) {
		if err := call(); store.Errno(err) != syscall.EIO || !strings.Contains(fmt.Sprint(err), "what was in it is gone with it") {
			t.Errorf("%s: %v", op, err)
		}
	}
	await(t, "it is in the log", func() bool { return d.logged("every request is answered with EIO until flexnbd is restarted") == 1 })
	if d.State() != "failed" || d.Restarts() != 0 {
		t.Errorf("%s, %d restarts", d.State(), d.Restarts())
	}
	if got := d.journal(t); got != "open write" {
		t.Errorf("the plugins did %q", got)
	}
}

func TestWritesThatMayStillLandAreNotRepeated(t *testing.T) {
	d := torture(t, map[string]string{"replayable": "no"})
	calls := d.calls(t.Context())
	for op, repeated := range map[string]bool{"read": true, "extents": true, "write": false, "punch": false} {
		result := d.inFlight("hold", op, calls[op])
		d.signal(unix.SIGKILL)
		err := <-result
		if repeated && err != nil || !repeated && (!is(err, wire.ErrPluginGone) || store.Errno(err) != syscall.EIO) {
			t.Errorf("%s in flight: %v", op, err)
		}
		if err := calls[op](); err != nil {
			t.Errorf("%s afterwards: %v", op, err)
		}
	}
	if d.logged("writes have failed") != 4 {
		t.Errorf("log:\n%s", d.log)
	}
}

func TestFlushThatLostItsProcessFailsOnceWhereOnlyFlushedSurvives(t *testing.T) {
	d := torture(t, map[string]string{"survives": "1"})
	var hooked bool
	d.OnRestart(func() { hooked = true })
	result := d.inFlight("hold", "flush", d.calls(t.Context())["flush"])
	d.signal(unix.SIGKILL)
	if err := <-result; !is(err, wire.ErrPluginGone) || store.Errno(err) != syscall.EIO {
		t.Errorf("the flush in flight: %v", err)
	}
	if !hooked || d.State() != "serving" {
		t.Errorf("it returned before the next process served")
	}
	for op, call := range d.calls(t.Context()) {
		if err := call(); err != nil {
			t.Errorf("%s: %v", op, err)
		}
	}
}

func TestAnotherDiskIsNotServed(t *testing.T) {
	d := torture(t, nil)
	if err := os.Truncate(d.image, torturedSize/2); err != nil {
		t.Fatal(err)
	}
	d.signal(unix.SIGKILL)
	d.awaitState("failed")
	if err := d.Flush(t.Context()); store.Errno(err) != syscall.EIO || !strings.Contains(err.Error(), "another disk than before") {
		t.Errorf("Flush: %v", err)
	}
	if got := d.journal(t); got != "open lease open" {
		t.Errorf("the plugins did %q", got)
	}
}

func TestStorageThatLostAnAbilityIsServed(t *testing.T) {
	d := torture(t, nil)
	d.order(t, "no", "fast")
	d.crash()
	if !d.Info().CanFast {
		t.Error("Info has changed")
	}
}

func TestRestartsAreBounded(t *testing.T) {
	old := maxRestarts
	maxRestarts = 3
	t.Cleanup(func() { maxRestarts = old })
	d := torture(t, nil)
	d.order(t, "exit", "write")
	err := d.calls(t.Context())["write"]()
	if store.Errno(err) != syscall.EIO || !strings.Contains(fmt.Sprint(err), "started 3 times within") {
		t.Errorf("a write that ends every process: %v", err)
	}
	await(t, "it is in the log", func() bool { return d.logged("failed for good: every request") == 1 })
	if d.Restarts() != 3 || d.logged("ended unexpectedly") != 4 {
		t.Errorf("%d restarts, log:\n%s", d.Restarts(), d.log)
	}
}

func TestRestartsLongAgoDoNotCount(t *testing.T) {
	var b restartBound
	now := time.Now()
	for range 3 {
		for range maxRestarts {
			if !b.allow(now) {
				t.Fatal("a restart within the bound is refused")
			}
		}
		if b.allow(now) || b.allow(now.Add(restartWindow)) {
			t.Fatal("a restart too many is allowed")
		}
		now = now.Add(restartWindow + 1)
	}
}

func TestFailedStartIsRepeatedWithGrowingPauses(t *testing.T) {
	shorten(t, &firstPause, time.Millisecond)
	shorten(t, &lastPause, 4*time.Millisecond)
	d := torture(t, nil)
	d.order(t, "fail", "open")
	d.signal(unix.SIGKILL)
	await(t, "five attempts", func() bool { return d.logged("can't be started again yet") >= 5 })
	if d.State() != "restarting" {
		t.Errorf("the disk is %s", d.State())
	}
	d.countermand(t, "fail", "open")
	if err := d.calls(t.Context())["read"](); err != nil {
		t.Fatal(err)
	}
	at := 0
	for _, pause := range []string{"1ms", "2ms", "4ms", "4ms"} {
		next := strings.Index(d.log.String()[at:], "again_in="+pause)
		if next < 0 {
			t.Fatalf("no pause of %s in its place:\n%s", pause, d.log)
		}
		at += next + 1
	}
	if d.logged("told to fail") < 5 {
		t.Errorf("the log does not say why:\n%s", d.log)
	}
}

func TestStartThatHangsEndsInEIO(t *testing.T) {
	shorten(t, &restartTimeout, 300*time.Millisecond)
	shorten(t, &restartWindow, 500*time.Millisecond)
	d := torture(t, nil)
	d.order(t, "hang", "open")
	d.signal(unix.SIGKILL)
	if err := d.calls(t.Context())["read"](); store.Errno(err) != syscall.EIO || !strings.Contains(fmt.Sprint(err), "could not be started again") {
		t.Errorf("read: %v", err)
	}
}

func TestRestartedBackendServesTheSameFileWhereverItIs(t *testing.T) {
	d := torture(t, nil)
	moved := d.image + ".moved"
	if err := os.Rename(d.image, moved); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.image, bytes.Repeat([]byte{'x'}, torturedSize), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		d.crash()
	}
	for op, call := range d.calls(t.Context()) {
		if err := call(); err != nil {
			t.Errorf("%s: %v", op, err)
		}
	}
	for path, want := range map[string]string{moved: "n", d.image: "x"} {
		if b, err := os.ReadFile(path); err != nil || string(b[1000:1001]) != want {
			t.Errorf("%s has %q (%v), want %s", path, b[1000:1001], err, want)
		}
	}
}

func TestBackendThatIgnoresItsLeaseIsRefused(t *testing.T) {
	other := filepath.Join(t.TempDir(), "lease")
	if err := os.WriteFile(other, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d := torture(t, map[string]string{"lease": other})
	if err := errors.Join(os.Remove(other), os.WriteFile(other, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	d.signal(unix.SIGKILL)
	d.awaitState("failed")
	if err := d.Flush(t.Context()); !strings.Contains(fmt.Sprint(err), "another file than the lease") {
		t.Errorf("Flush: %v", err)
	}
}

// thief returns a function that tries to get the image's lock, as another server
// would, and says whether it has.
func (d *tortured) thief() (steal func() bool) {
	d.t.Helper()
	f, err := os.OpenFile(d.image, os.O_RDWR, 0)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { _ = f.Close() })
	return func() bool {
		whole := unix.Flock_t{Type: unix.F_RDLCK}
		return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &whole) == nil
	}
}

func TestNobodyGetsTheLockInBetween(t *testing.T) {
	d := torture(t, nil)
	steal := d.thief()
	crashed := make(chan struct{})
	var thief sync.WaitGroup
	thief.Go(func() {
		for tries := 0; ; tries++ {
			if steal() {
				t.Errorf("the lock was free at try %d", tries)
				return
			}
			select {
			case <-crashed:
				return
			default:
			}
		}
	})
	for i, signal := range []syscall.Signal{unix.SIGKILL, unix.SIGSTOP, unix.SIGKILL} {
		d.signal(signal)
		d.awaitRestart(i)
	}
	close(crashed)
	thief.Wait()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if !steal() {
		t.Error("the lock is still held after Close")
	}
}

func TestClosedDiskLeavesNothing(t *testing.T) {
	torture(t, nil) // so that what the runtime opens once is open
	if err := torture(t, nil).Close(); err != nil {
		t.Fatal(err)
	}
	d := torture(t, nil)
	for range 2 {
		d.crash()
	}
	if err := d.Abandon(); err != nil {
		t.Error(err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	await(t, "descriptors are closed again", func() bool { return descriptors(t) <= d.before })
}

func TestHookRunsBeforeAnyCallReachesTheNewProcess(t *testing.T) {
	d := torture(t, nil)
	running, release := make(chan struct{}), make(chan struct{})
	d.OnRestart(func() {
		close(running)
		<-release
		d.note("hook")
	})
	calls := d.calls(t.Context())
	results := []<-chan error{d.inFlight("hold", "write", calls["write"])}
	d.journal(t)
	d.signal(unix.SIGKILL)
	<-running
	for _, op := range []string{"read", "extents", "flush"} {
		result := make(chan error, 1)
		go func() { result <- calls[op]() }()
		results = append(results, result)
	}
	if d.State() != "restarting" {
		t.Error("calls go on before the hook has returned")
	}
	close(release)
	for _, r := range results {
		if err := <-r; err != nil {
			t.Error(err)
		}
	}
	if got := d.journal(t); !strings.HasPrefix(got, "lease open hook ") {
		t.Errorf("the order was %q", got)
	}
}

// waiting makes the disk restart for as long as nobody ends it, with a call that
// waits.
func (d *tortured) waiting(how, op string) <-chan error {
	d.t.Helper()
	d.order(d.t, how, "open")
	d.signal(unix.SIGKILL)
	d.awaitState("restarting")
	result := make(chan error, 1)
	go func() { result <- d.calls(d.t.Context())[op]() }()
	return result
}

func TestAbandonedDiskFailsWhateverItIsDoing(t *testing.T) {
	for _, how := range []string{"fail", "hang"} { // the start, while restarting
		d := torture(t, nil)
		waits := d.waiting(how, "write")
		if how == "hang" {
			await(t, "the new process hangs", func() bool { return strings.HasSuffix(d.peek(), "lease open") })
		}
		began := time.Now()
		if err := d.Abandon(); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > patience {
			t.Errorf("Abandon took %v", took)
		}
		if err := <-waits; !is(err, ErrAbandoned) {
			t.Errorf("the call that waited: %v", err)
		}
		if err := d.Flush(t.Context()); !is(err, ErrAbandoned) || store.Errno(err) != syscall.EIO {
			t.Errorf("a later call: %v", err)
		}
		if d.logged("failed for good") != 0 {
			t.Errorf("log:\n%s", d.log)
		}
	}
}

func (s script) peek() string {
	b, _ := os.ReadFile(filepath.Join(string(s), "journal"))
	return strings.Join(strings.Fields(string(b)), " ")
}

func TestAbandonFailsCallsInFlight(t *testing.T) {
	d := torture(t, nil)
	result := d.inFlight("hold", "write", d.calls(t.Context())["write"])
	if err := errors.Join(d.Abandon(), d.Abandon()); err != nil {
		t.Error(err)
	}
	if err := <-result; !is(err, ErrAbandoned) {
		t.Errorf("the call in flight: %v", err)
	}
	select {
	case <-d.Process().Exited():
	default:
		t.Error("Abandon has returned, and the process has not ended")
	}
	if d.logged("unexpectedly") != 0 {
		t.Errorf("log:\n%s", d.log)
	}
}

func TestAbandonAndCloseMayMeet(t *testing.T) {
	const inOrder = 5 * time.Second // what the plugin is given to close the disk, in package wire
	d := torture(t, nil)
	result := d.inFlight("hold", "write", d.calls(t.Context())["write"])
	began := time.Now()
	var all sync.WaitGroup
	end := func(end func() error) {
		all.Go(func() {
			if err := end(); err != nil {
				t.Error(err)
			}
			select {
			case <-d.Process().Exited():
			default:
				t.Error("returned before the process had ended")
			}
		})
	}
	end(d.Close) // waits for the call in flight
	d.awaitState("failed")
	for range 3 {
		end(d.Abandon)
		end(d.Close)
	}
	all.Wait()
	if took := time.Since(began); took >= inOrder {
		t.Errorf("it took %v, though one of them was to use force", took)
	}
	if err := <-result; store.Errno(err) != syscall.EIO {
		t.Errorf("the call in flight: %v", err)
	}
}

func TestDiskIsClosedWhileItIsRestarting(t *testing.T) {
	for _, how := range []string{"fail", "hang"} {
		d := torture(t, nil)
		waits := d.waiting(how, "read")
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		if err := <-waits; !strings.Contains(fmt.Sprint(err), "the disk is closed") {
			t.Errorf("the call that waited: %v", err)
		}
		if left := children(t); len(left) > 0 {
			t.Errorf("processes %v are left", left)
		}
	}
}

func TestDiskIsClosedAfterItsProcessIsGone(t *testing.T) {
	d := torture(t, nil)
	p := d.Process()
	d.cancel() // nobody notices
	d.tasks.Wait()
	d.signal(unix.SIGKILL)
	_ = exited(t, p)
	if err := d.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if d.logged(`how="signal: killed"`) != 1 {
		t.Errorf("log:\n%s", d.log)
	}
}

func TestStoppedBackendDoesNotDelayClose(t *testing.T) {
	unhurried(t)
	d := torture(t, nil)
	d.cancel() // nobody replaces it
	d.tasks.Wait()
	d.signal(unix.SIGSTOP)
	began := time.Now()
	if err := d.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if took := time.Since(began); took > stopWait {
		t.Errorf("Close took %v", took)
	}
}

func TestContextEndsAWaitForTheNextProcess(t *testing.T) {
	d := torture(t, nil)
	d.waitForGood()
	why := errors.New("changed my mind")
	ctx, cancel := context.WithCancelCause(t.Context())
	var all sync.WaitGroup
	for op, call := range d.calls(ctx) {
		all.Go(func() {
			if err := call(); !is(err, context.Canceled) {
				t.Errorf("%s: %v", op, err)
			}
		})
	}
	cancel(why)
	all.Wait()
	d.countermand(t, "fail", "open")
	if err := d.calls(t.Context())["write"](); err != nil { // no claim is left behind
		t.Error(err)
	}
}

// waitForGood makes the disk restart until the order is countermanded.
func (d *tortured) waitForGood() {
	d.order(d.t, "fail", "open")
	d.signal(unix.SIGKILL)
	d.awaitState("restarting")
}

func TestCrashInOpenIsExplained(t *testing.T) {
	h, log := newHost(t)
	s := script(t.TempDir())
	s.order(t, "exit", "open")
	_, err := h.OpenDisk(t.Context(), self("test-script"), wire.Disk{Location: "/x", Options: map[string]string{"script": string(s)}})
	if !is(err, wire.ErrPluginGone) {
		t.Errorf("OpenDisk: %v", err)
	}
	if !strings.Contains(log.String(), `how="exit status 7"`) {
		t.Errorf("log:\n%s", log)
	}
}
