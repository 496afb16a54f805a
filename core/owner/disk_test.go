// SPDX-License-Identifier: GPL-3.0-or-later

package owner_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flexnbd/flexnbd/core/owner"
)

// image makes an image in dir and opens its records.
func image(t *testing.T, dir string) (owner.Place, *owner.Records) {
	t.Helper()
	path := filepath.Join(dir, "disk.img")
	if err := os.WriteFile(path, []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := owner.Beside(path)
	if err != nil {
		t.Fatal(err)
	}
	return p, open(t, p)
}

func open(t *testing.T, p owner.Place) *owner.Records {
	t.Helper()
	r, err := owner.Open(owner.Disk, p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func do(t *testing.T, steps ...func() error) {
	t.Helper()
	for i, step := range steps {
		if err := step(); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
	}
}

// errorSays wants an error that is want, names the file and says what to do.
func errorSays(t *testing.T, err, want error, texts ...string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%v, want %v", err, want)
		return
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("%q does not say %q", err, text)
		}
	}
}

func TestRoundTripOnARealDisk(t *testing.T) {
	p, b := image(t, t.TempDir())
	state := func(want string) {
		t.Helper()
		again, err := owner.Inspect(owner.Disk, p)
		if got := describe(b.State()); err != nil || got != want || describe(again) != want {
			t.Fatalf("there is %q, on the disk %q, %v; want %q", got, describe(again), err, want)
		}
	}
	state("")
	do(t, b.Check, b.Expect, func() error { return b.Prepare(old) })
	state("incomplete:22")
	do(t, b.Withdraw)
	state("incomplete:touched")
	do(t, func() error { return b.Prepare(x) }, func() error { return b.TakeOver(x) }, func() error { return b.TakeOver(x) })
	state("received:11")
	b = open(t, p)
	do(t, func() error { return b.Intend(departure(old)) }, b.Depart)
	state("migrated:22 received:11")
	do(t, b.IgnoreDeparture)
	state("next:22 received:11")
	do(t, func() error { return b.Intend(departure(old)) }, b.Depart, b.Acknowledge, b.Acknowledge)
	if d := b.State().Migrated; d.To[1].Addr != "/run/b.sock" || d.To[0].Port != 4777 {
		t.Errorf("the departure is %+v", d)
	}
	b = open(t, p)
	state("migrated:22:acknowledged received:11")
	do(t, b.Expect)
	state("incomplete received:11")
	do(t, func() error { return b.Prepare(x) })
	b = open(t, p)
	do(t, func() error { return b.TakeOver(x) }, func() error { return b.Intend(departure(old)) }, b.Depart, b.Acknowledge, b.Forget)
	state("")
	names, err := filepath.Glob(filepath.Join(p.Dir, "*"))
	if err != nil || len(names) != 1 {
		t.Errorf("there are %q, %v", names, err)
	}
}

func TestRecordsAreForTheirOwnerOnly(t *testing.T) {
	p, r := image(t, t.TempDir())
	do(t, r.Expect)
	st, err := os.Stat(p.Incomplete())
	if err != nil || st.Mode() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	state := owner.InState(filepath.Join(t.TempDir(), "a", "b"), "x")
	do(t, open(t, state).Expect)
	for _, dir := range []string{state.Dir, filepath.Dir(state.Dir)} {
		if st, err = os.Stat(dir); err != nil || st.Mode() != os.ModeDir|0o700 {
			t.Errorf("%s: mode %v, %v", dir, st.Mode(), err)
		}
	}
}

func TestOpenMakesNothingInAStateDirectory(t *testing.T) {
	dir := t.TempDir()
	p := owner.InState(filepath.Join(dir, "a", "b"), "x")
	if s, err := owner.Inspect(owner.Disk, p); err != nil || !s.IsEmpty() {
		t.Error(s, err)
	}
	open(t, p)
	if names, err := os.ReadDir(dir); err != nil || len(names) != 0 {
		t.Errorf("there is %v, %v", names, err)
	}
}

func TestStateDirectoryIsLockedForEachDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	p := owner.InState(dir, "x")
	early := open(t, p) // there is nothing to lock yet
	first := open(t, p)
	do(t, first.Check)
	_, err := owner.Open(owner.Disk, p)
	errorSays(t, err, owner.ErrLocked, p.String()+".LOCK", "stop it first")
	errorSays(t, early.Expect(), owner.ErrLocked, p.String()+".LOCK")
	do(t, open(t, owner.InState(dir, "y")).Expect)
	do(t, first.Expect, first.Close)
	if err := early.Expect(); err == nil || !strings.Contains(err.Error(), "start again") {
		t.Errorf("records that another process wrote meanwhile: %v", err)
	}
	_ = early.Close()
	again := open(t, p)
	if got := describe(again.State()); got != "incomplete" {
		t.Errorf("there is %q", got)
	}
	do(t, again.Close)
	if err := again.Withdraw(); err == nil {
		t.Error("records were changed after Close")
	}
}

func TestFullDiskIsSaidAndTheOldRecordStands(t *testing.T) {
	dir := mounted(t, "64k")
	p, r := image(t, dir)
	do(t, r.Expect, func() error { return r.Prepare(old) })
	filler, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = filler.Write(make([]byte, 512))
	}
	_ = filler.Close()
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	errorSays(t, r.Withdraw(), syscall.ENOSPC, p.Incomplete(), "make space")
	errorSays(t, r.Check(), syscall.ENOSPC, p.Dir, "make space")
	if got := describe(r.State()); got != "incomplete:22" {
		t.Errorf("State is %q", got)
	}
	if s, err := owner.Inspect(owner.Disk, p); err != nil || describe(s) != "incomplete:22" {
		t.Errorf("there is %q, %v", describe(s), err)
	}
	if err := os.Remove(filler.Name()); err != nil {
		t.Fatal(err)
	}
	do(t, r.Check, r.Withdraw)
	if s, err := owner.Inspect(owner.Disk, p); err != nil || describe(s) != "incomplete:touched" {
		t.Errorf("with space again there is %q, %v", describe(s), err)
	}
}

func TestReadOnlyDiskKeepsNoRecordsAndIsNoReasonNotToServe(t *testing.T) {
	dir := mounted(t, "64k")
	readOnly := func(flag uintptr) {
		t.Helper()
		if err := unix.Mount("", dir, "", unix.MS_REMOUNT|flag, ""); err != nil {
			t.Fatal(err)
		}
	}
	p, _ := image(t, dir)
	state := owner.InState(filepath.Join(dir, "state"), "x")
	locked := owner.InState(dir, "y")
	readOnly(unix.MS_RDONLY)
	for _, place := range []owner.Place{p, state, locked} {
		r := open(t, place)
		errorSays(t, r.Check(), syscall.EROFS, dir, "--state-dir")
		errorSays(t, r.Expect(), syscall.EROFS, dir, "--state-dir")
		if got := r.State().Verdict(); got != owner.VerdictOwner {
			t.Errorf("%s: %v", place, got)
		}
	}
	readOnly(0)
	do(t, open(t, p).Expect)
	readOnly(unix.MS_RDONLY)
	_, err := owner.Open(owner.Disk, p) // what it found may not last
	errorSays(t, err, syscall.EROFS, p.Incomplete())
}

func TestDirectoryOfOthersIsSaid(t *testing.T) {
	if os.Geteuid() != 0 {
		mounted(t, "64k") // says what is missing
	}
	dir := t.TempDir()
	for at := dir; at != "/"; at = filepath.Dir(at) { // let the user below come here
		if st, err := os.Stat(at); err == nil && strings.HasPrefix(at, os.TempDir()+"/") {
			if err := os.Chmod(at, st.Mode().Perm()|0o011); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	p, _ := image(t, dir)
	asNobody(t, func() {
		r, err := owner.Open(owner.Disk, p) // it cannot even fsync the directory
		if err != nil {
			t.Errorf("without records: %v", err)
			return
		}
		errorSays(t, r.Check(), os.ErrPermission, dir, "--state-dir")
		_, err = owner.Open(owner.Disk, owner.InState(dir, "x"))
		errorSays(t, err, os.ErrPermission, dir, "--state-dir")
	})
	do(t, open(t, p).Expect)
	asNobody(t, func() {
		_, err := owner.Open(owner.Disk, p)
		errorSays(t, err, os.ErrPermission, p.Incomplete(), "--state-dir")
	})
}

// asNobody runs f with a user's rights to files, on a thread that ends with it.
func asNobody(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked
		if _, err := unix.SetfsuidRetUid(65534); err != nil {
			t.Error(err)
			return
		}
		f()
	}()
	<-done
}

func TestStateDirectoryBelowAFileIsSaid(t *testing.T) {
	p, _ := image(t, t.TempDir())
	below := owner.InState(p.String(), "x")
	_, err := owner.Open(owner.Disk, below)
	errorSays(t, err, syscall.ENOTDIR, below.String())
}

func TestWhatIsNoRecordIsLeftAlone(t *testing.T) {
	for name, make := range map[string]func(path string) error{
		"link": func(path string) error {
			return errors.Join(os.WriteFile(path+".far", []byte(ackedText), 0o600), os.Symlink(path+".far", path))
		},
		"FIFO":     func(path string) error { return unix.Mkfifo(path, 0o600) },
		"folder":   func(path string) error { return os.Mkdir(path, 0o700) },
		"large":    func(path string) error { return os.WriteFile(path, []byte(strings.Repeat(" ", 64<<10+1)), 0o600) },
		"rubbish":  func(path string) error { return os.WriteFile(path, []byte("rubbish"), 0o600) },
		"newer":    func(path string) error { return os.WriteFile(path, []byte(`{"version":7}`), 0o600) },
		"an empty": func(path string) error { return os.WriteFile(path, nil, 0o600) },
	} {
		p, _ := image(t, t.TempDir())
		if err := make(p.Migrated()); err != nil {
			t.Fatal(err)
		}
		before, err := os.Lstat(p.Migrated())
		if err != nil {
			t.Fatal(err)
		}
		if s, err := owner.Inspect(owner.Disk, p); err == nil || !s.IsEmpty() {
			t.Errorf("%s: Inspect found %+v, %v", name, s, err)
		}
		if _, err := owner.Open(owner.Disk, p); err == nil || !strings.Contains(err.Error(), p.Migrated()) {
			t.Errorf("%s: Open returned %v", name, err)
		}
		if after, err := os.Lstat(p.Migrated()); err != nil || !os.SameFile(before, after) {
			t.Errorf("%s: it is not there any more: %v", name, err)
		}
	}
}
