// SPDX-License-Identifier: GPL-3.0-or-later

package owner_test

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"testing"

	"github.com/flexnbd/flexnbd/core/owner"
	"github.com/flexnbd/flexnbd/core/owner/crashfs"
)

// each runs a check for every scene.
func each(t *testing.T, check func(t *testing.T, s scene)) {
	for _, s := range scenes {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			check(t, s)
		})
	}
}

// run carries the scene's operation out, with a fault that is set first, and says
// what is wrong afterwards.
func (s scene) run(fault func(*crashfs.FS)) (disk *crashfs.FS, r *owner.Records, result, wrong error) {
	disk, r, err := s.open()
	if err != nil {
		return nil, nil, nil, err
	}
	if got := describe(r.State()); got != s.before {
		return nil, nil, nil, fmt.Errorf("before there is %q, want %q", got, s.before)
	}
	fault(disk)
	result = s.op(r)
	return disk, r, result, nil
}

// durable says what is wrong if a power cut comes now: nil was returned and the
// state is not the one after, or it is none that is allowed.
func (s scene) durable(disk *crashfs.FS, result error) error {
	if result == nil {
		return afterPowerCut(disk, s.place, only(s.after))
	}
	return afterPowerCut(disk, s.place, s.allows)
}

func TestPowerCutAtEveryStepLeavesTheStateBeforeOrAfter(t *testing.T) {
	each(t, func(t *testing.T, s scene) {
		length, err := s.length()
		if err != nil || length == 0 {
			t.Fatal(length, err)
		}
		for n := range length + 1 {
			disk, _, result, wrong := s.run(func(disk *crashfs.FS) { disk.StopAt(n) })
			if wrong == nil && (result == nil) != (n == length) {
				wrong = fmt.Errorf("it returned %v", result)
			}
			if wrong == nil {
				wrong = s.durable(disk, result)
			}
			if wrong != nil {
				t.Fatalf("power cut at step %d of %d: %v", n, length, wrong)
			}
		}
	})
}

// What Open finds after the process alone has ended, it may act on: no power cut
// undoes that, not even one in the midst of a later Open.
func TestWhatOpenFindsNoPowerCutUndoes(t *testing.T) {
	each(t, func(t *testing.T, s scene) {
		length, err := s.length()
		if err != nil {
			t.Fatal(err)
		}
		for n := range length + 1 {
			disk, _, _, wrong := s.run(func(disk *crashfs.FS) { disk.StopAt(n) })
			if wrong == nil {
				wrong = s.reopened(disk.Kill())
			}
			if wrong != nil {
				t.Fatalf("killed at step %d of %d: %v", n, length, wrong)
			}
		}
	})
}

// reopened opens what a kill left, cutting the power at each step of that and after
// it.
func (s scene) reopened(killed *crashfs.FS) error {
	whole := killed.Kill()
	found, err := restart(whole, s.place)
	if err != nil {
		return err
	}
	if !s.allows(found) {
		return fmt.Errorf("Open finds %q", found)
	}
	then := only(found)
	if found == "" {
		then = s.allows // of the removal of what nobody needs any more nothing is written anew
	}
	if err := afterPowerCut(whole, s.place, then); err != nil {
		return fmt.Errorf("Open found %q, and then: %w", found, err)
	}
	for n := range len(whole.Ops()) {
		disk := killed.Kill()
		disk.StopAt(n)
		_, _ = owner.Open(disk, s.place)
		if err := afterPowerCut(disk, s.place, s.allows); err != nil {
			return fmt.Errorf("power cut at step %d of Open: %w", n, err)
		}
	}
	return nil
}

func TestErrorAtEveryStepLeavesTheStateBeforeOrAfterAndARetryWorks(t *testing.T) {
	faults := map[string]func(*crashfs.FS, int){
		"ENOSPC":   func(disk *crashfs.FS, n int) { disk.FailAt(n, syscall.ENOSPC) },
		"EIO":      func(disk *crashfs.FS, n int) { disk.FailAt(n, syscall.EIO) },
		"EIO late": func(disk *crashfs.FS, n int) { disk.FailDoneAt(n, syscall.EIO) },
	}
	each(t, func(t *testing.T, s scene) {
		if s.halved != "" {
			s.between = s.halved
		}
		length, err := s.length()
		if err != nil {
			t.Fatal(err)
		}
		for name, fault := range faults {
			for n := range length {
				disk, r, result, wrong := s.run(func(disk *crashfs.FS) { fault(disk, n) })
				if wrong == nil {
					wrong = s.survivesError(disk, r, result)
				}
				if wrong != nil {
					t.Errorf("%s at step %d of %d (%v): it returned %v; %v", name, n, length,
						disk.Ops()[len(disk.Ops())-1], result, wrong)
				}
			}
		}
	})
}

func (s scene) survivesError(disk *crashfs.FS, r *owner.Records, result error) error {
	if err := s.durable(disk, result); err != nil {
		return err
	}
	if err := s.careful(disk, r); err != nil {
		return err
	}
	if err := s.reopened(disk.Kill()); err != nil {
		return err
	}
	if errors.Is(result, owner.ErrUncertain) {
		if again := s.op(r); !errors.Is(again, owner.ErrUncertain) {
			return fmt.Errorf("after ErrUncertain the same Records returned %w", again)
		}
		return s.durable(disk, result)
	}
	if result == nil {
		return nil
	}
	if err := s.op(r); err != nil {
		return fmt.Errorf("the retry returned %w", err)
	}
	if got := describe(r.State()); got != s.after {
		return fmt.Errorf("after the retry State is %q", got)
	}
	return s.durable(disk, nil)
}

// careful says whether State keeps back whatever one of the possible states would:
// nobody serves, and nobody writes under a prepared record, because of an error.
func (s scene) careful(disk *crashfs.FS, r *owner.Records) error {
	told := r.State()
	check := func(disk *crashfs.FS) error {
		maybe, err := owner.Inspect(disk, s.place)
		if err != nil {
			return err
		}
		if told.Verdict() == owner.VerdictOwner && maybe.Verdict() != owner.VerdictOwner {
			return fmt.Errorf("State says %q, and it may be %q", describe(told), describe(maybe))
		}
		if i := maybe.Incomplete; i != nil && !i.Prepared.IsZero() && told.Incomplete.Prepared.IsZero() {
			return fmt.Errorf("State says that the copy is plain, and it may be %q", describe(maybe))
		}
		return nil
	}
	wrong := check(disk.Kill())
	for after := range disk.Crashes(most, 1) {
		wrong = errors.Join(wrong, check(after))
	}
	return wrong
}

// The renames that decide who owns the disk: only with a failed fsync after them
// does nobody know.
func TestOnlyWhatMayBeLostIsUncertain(t *testing.T) {
	for _, s := range scenes {
		if s.name != "depart" && s.name != "take over" {
			continue
		}
		for kind, want := range map[crashfs.Kind]struct{ early, late bool }{
			crashfs.OpRename:  {false, false}, // done after all: as if it had said so
			crashfs.OpSyncDir: {true, true},
		} {
			n := s.step(t, kind)
			_, _, early, _ := s.run(func(disk *crashfs.FS) { disk.FailAt(n, syscall.EIO) })
			if early == nil || errors.Is(early, owner.ErrUncertain) != want.early {
				t.Errorf("%s: a failed %s returned %v", s.name, kind, early)
			}
			disk, r, late, _ := s.run(func(disk *crashfs.FS) { disk.FailDoneAt(n, syscall.EIO) })
			if errors.Is(late, owner.ErrUncertain) != want.late {
				t.Errorf("%s: a %s that was done and failed returned %v", s.name, kind, late)
			}
			if kind == crashfs.OpRename && (late != nil || describe(r.State()) != s.after || s.durable(disk, nil) != nil) {
				t.Errorf("%s: a rename that was done and failed returned %v, and State is %q", s.name, late, describe(r.State()))
			}
		}
		// The rename fails, and so does looking.
		n := s.step(t, crashfs.OpRename)
		_, r, err, _ := s.run(func(disk *crashfs.FS) { disk.FailAt(n, syscall.EIO); disk.FailAt(n+1, syscall.EIO) })
		if !errors.Is(err, owner.ErrUncertain) || r.State().Verdict() == owner.VerdictOwner {
			t.Errorf("%s: a rename that nobody could look at returned %v", s.name, err)
		}
	}
}

// step is the place of the first operation of a kind in the scene's.
func (s scene) step(t *testing.T, kind crashfs.Kind) int {
	t.Helper()
	disk, r, err := s.open()
	if err != nil {
		t.Fatal(err)
	}
	before := len(disk.Ops())
	if err := s.op(r); err != nil {
		t.Fatal(err)
	}
	for n, op := range disk.Ops()[before:] {
		if op.Kind == kind {
			return n
		}
	}
	t.Fatalf("%s does no %s", s.name, kind)
	return 0
}

// Leave out any one fsync, and the check above fails: none is there for nothing,
// and the check sees what it is for.
func TestEveryFsyncMatters(t *testing.T) {
	each(t, func(t *testing.T, s scene) {
		disk, r, err := s.open()
		if err != nil {
			t.Fatal(err)
		}
		before := len(disk.Ops())
		if err := s.op(r); err != nil {
			t.Fatal(err)
		}
		left := 0
		for n, op := range disk.Ops()[before:] {
			if op.Kind != crashfs.OpSync && op.Kind != crashfs.OpSyncDir {
				continue
			}
			if op.Kind == crashfs.OpSyncDir && op.Path == "/" {
				continue // of /var, which is durable here: see TestDirectoryThatAKilledProcessMade
			}
			left++
			if !s.seen(t, n) {
				t.Errorf("without step %d (%v) nothing is noticed", n, op)
			}
		}
		if left == 0 {
			t.Error("there is no fsync")
		}
	})
}

// seen runs the scene without step n, with a power cut at each later step, and says
// whether a check fails.
func (s scene) seen(t *testing.T, n int) bool {
	length, err := s.length()
	if err != nil {
		t.Fatal(err)
	}
	for stop := n + 1; stop <= length; stop++ {
		disk, _, result, err := s.run(func(disk *crashfs.FS) { disk.SkipAt(n); disk.StopAt(stop) })
		if err != nil {
			t.Fatal(err)
		}
		if s.durable(disk, result) != nil {
			return true
		}
	}
	return false
}

// unwritten drops what Open writes anew, as if it did an fsync of the directory
// alone.
type unwritten struct{ *crashfs.FS }

type nowhere struct{}

func (nowhere) Write(data []byte) (int, error)                   { return len(data), nil }
func (nowhere) Sync() error                                      { return nil }
func (nowhere) Close() error                                     { return nil }
func (unwritten) Create(string, fs.FileMode) (owner.File, error) { return nowhere{}, nil }
func (u unwritten) Rename(from, to string) error {
	if strings.HasSuffix(from, ".new") {
		return nil
	}
	return u.FS.Rename(from, to)
}

// An fsync that failed succeeds the second time, and nothing is on the disk: that is
// why Open writes records anew.
func TestOpenAfterAFailedFsyncWritesAnew(t *testing.T) {
	for _, s := range scenes {
		if s.name != "depart" && s.name != "take over" {
			continue
		}
		n := s.step(t, crashfs.OpSyncDir)
		disk, _, err, _ := s.run(func(disk *crashfs.FS) { disk.FailAt(n, syscall.EIO) })
		if !errors.Is(err, owner.ErrUncertain) {
			t.Fatal(err)
		}
		killed := disk.Kill()
		if got, err := restart(killed, s.place); err != nil || got != s.after {
			t.Fatalf("%s: a restart finds %q, %v", s.name, got, err)
		}
		if err := afterPowerCut(killed, s.place, only(s.after)); err != nil {
			t.Errorf("%s: %v", s.name, err)
		}
		// And with the fsync alone:
		killed = disk.Kill()
		if got, err := restart(unwritten{killed}, s.place); err != nil || got != s.after {
			t.Fatalf("%s: a restart finds %q, %v", s.name, got, err)
		}
		if err := afterPowerCut(killed, s.place, only(s.after)); err == nil {
			t.Errorf("%s: it is not seen that Open writes nothing", s.name)
		}
	}
}

// A process that was killed between making the state directory and the fsync of its
// parent leaves one that is there, and may vanish with all records in it.
func TestDirectoryThatAKilledProcessMade(t *testing.T) {
	for _, made := range []string{"/var/lib", "/var/lib/flexnbd"} {
		disk := crashfs.New()
		disk.MkdirAll("/var")
		if made == "/var/lib" {
			if err := disk.Mkdir("/var/lib", 0o700); err != nil {
				t.Fatal(err)
			}
		} else {
			disk.MkdirAll("/var/lib")
			if err := disk.Mkdir(made, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		r, err := owner.Open(disk, inState)
		if err == nil {
			err = r.Expect()
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := afterPowerCut(disk, inState, only("incomplete")); err != nil {
			t.Errorf("%s made before: %v", made, err)
		}
	}
}

func TestLeftOversAreRemoved(t *testing.T) {
	for _, s := range scenes {
		length, err := s.length()
		if err != nil {
			t.Fatal(err)
		}
		for n := range length {
			disk, _, _, err := s.run(func(disk *crashfs.FS) { disk.StopAt(n) })
			if err != nil {
				t.Fatal(err)
			}
			killed := disk.Kill()
			if _, err := restart(killed, s.place); err != nil {
				t.Fatal(err)
			}
			for _, name := range killed.Names(s.place.Dir) {
				if strings.HasSuffix(name, ".new") {
					t.Errorf("%s, killed at step %d: %s is still there", s.name, n, name)
				}
			}
		}
	}
}
