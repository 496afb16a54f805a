// SPDX-License-Identifier: GPL-3.0-or-later

package crashfs_test

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/flexnbd/flexnbd/core/owner"
	"github.com/flexnbd/flexnbd/core/owner/crashfs"
)

const dir = "/srv"

func newDisk() *crashfs.FS {
	disk := crashfs.New()
	disk.MkdirAll(dir)
	return disk
}

// save writes a file with the fsyncs that it is told to do.
func save(t *testing.T, disk *crashfs.FS, name, text string, sync, syncDir bool) {
	t.Helper()
	f, err := disk.Create(name, 0)
	if err == nil {
		_, err = f.Write([]byte(text))
	}
	if err == nil && sync {
		err = f.Sync()
	}
	if err == nil {
		err = f.Close()
	}
	if err == nil && syncDir {
		err = disk.SyncDir(dir)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// look is what a file holds: "none" where there is none.
func look(disk *crashfs.FS, name string) string {
	data, err := disk.ReadFile(name, 100)
	if err != nil {
		return "none"
	}
	return string(data)
}

// outcomes are all that a file may hold after a power cut.
func outcomes(disk *crashfs.FS, names ...string) []string {
	var all []string
	for after := range disk.Crashes(10000, 1) {
		var texts []string
		for _, name := range names {
			texts = append(texts, look(after, name))
		}
		all = append(all, strings.Join(texts, " "))
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func expect(t *testing.T, got []string, want ...string) {
	t.Helper()
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("after a power cut there may be %q, want %q", got, want)
	}
}

func TestNothingButWhatWasSyncedSurvivesForSure(t *testing.T) {
	disk := newDisk()
	save(t, disk, "/srv/a", "abcd", true, true)
	expect(t, outcomes(disk, "/srv/a"), "abcd")

	disk = newDisk()
	save(t, disk, "/srv/a", "abcd", true, false)
	expect(t, outcomes(disk, "/srv/a"), "abcd", "none")

	disk = newDisk()
	save(t, disk, "/srv/a", "abcd", false, true)
	expect(t, outcomes(disk, "/srv/a"), "", "ab", "abcd", "\x00\x00\x00\x00")
	if got := look(disk.Crash(), "/srv/a"); got != "" {
		t.Errorf("Crash kept %q of a file without fsync", got)
	}
}

func TestKillLosesNothingAndAPowerCutMayFollow(t *testing.T) {
	disk := newDisk()
	save(t, disk, "/srv/a", "abcd", false, false)
	killed := disk.Kill()
	if got := look(killed, "/srv/a"); got != "abcd" {
		t.Errorf("a killed process left %q", got)
	}
	if got := look(killed.Crash(), "/srv/a"); got != "none" {
		t.Errorf("a power cut after it left %q", got)
	}
	if err := killed.Remove("/srv/a"); err != nil {
		t.Fatal(err)
	}
	if got := look(disk, "/srv/a"); got != "abcd" {
		t.Errorf("what is done after Kill changes the FS before: %q", got)
	}
}

func TestRenameSurvivesWholeOrNot(t *testing.T) {
	disk := newDisk()
	disk.WriteFile("/srv/a", []byte("new"))
	disk.WriteFile("/srv/b", []byte("old"))
	if err := disk.Rename("/srv/a", "/srv/b"); err != nil {
		t.Fatal(err)
	}
	expect(t, outcomes(disk, "/srv/a", "/srv/b"), "new old", "none new")
}

func TestChangesOfADirectorySurviveEachByItself(t *testing.T) {
	disk := newDisk()
	disk.WriteFile("/srv/a", []byte("a"))
	disk.WriteFile("/srv/b", []byte("b"))
	if err := errors.Join(disk.Remove("/srv/a"), disk.Remove("/srv/b")); err != nil {
		t.Fatal(err)
	}
	expect(t, outcomes(disk, "/srv/a", "/srv/b"), "a b", "a none", "none b", "none none")
}

func TestNewDirectoryIsAChangeOfItsParent(t *testing.T) {
	disk := crashfs.New()
	if err := disk.Mkdir(dir, 0); err != nil {
		t.Fatal(err)
	}
	save(t, disk, "/srv/a", "abcd", true, true)
	expect(t, outcomes(disk, "/srv/a"), "abcd", "none")
	if err := disk.SyncDir("/"); err != nil {
		t.Fatal(err)
	}
	expect(t, outcomes(disk, "/srv/a"), "abcd")
}

func TestFsyncAfterAFailedOneChangesNothing(t *testing.T) {
	disk := newDisk()
	f, err := disk.Create("/srv/a", 0)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = f.Write([]byte("ab"))
	disk.FailAt(0, syscall.EIO)
	if err := f.Sync(); !errors.Is(err, syscall.EIO) {
		t.Fatalf("Sync returned %v", err)
	}
	if err := f.Sync(); err != nil {
		t.Fatalf("the second Sync returned %v", err)
	}
	disk.FailAt(0, syscall.EIO)
	if err := disk.SyncDir(dir); !errors.Is(err, syscall.EIO) {
		t.Fatalf("SyncDir returned %v", err)
	}
	if err := disk.SyncDir(dir); err != nil {
		t.Fatalf("the second SyncDir returned %v", err)
	}
	expect(t, outcomes(disk, "/srv/a"), "", "a", "ab", "\x00\x00", "none")

	_, _ = f.Write([]byte("cd"))
	disk.WriteFile("/srv/b", nil) // changes the directory again, and syncs it
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	expect(t, outcomes(disk, "/srv/a"), "abcd")
}

func TestFaultsHitTheOperationThatTheyNameOnce(t *testing.T) {
	disk := newDisk()
	disk.WriteFile("/srv/a", []byte("a"))
	disk.FailAt(1, syscall.ENOSPC)
	disk.FailDoneAt(2, syscall.EIO)
	if got := look(disk, "/srv/a"); got != "a" {
		t.Errorf("the first operation read %q", got)
	}
	if err := disk.Rename("/srv/a", "/srv/b"); !errors.Is(err, syscall.ENOSPC) || look(disk.Kill(), "/srv/a") != "a" {
		t.Errorf("the second returned %v", err)
	}
	if err := disk.Rename("/srv/a", "/srv/b"); !errors.Is(err, syscall.EIO) || look(disk.Kill(), "/srv/b") != "a" {
		t.Errorf("the third returned %v", err)
	}
	disk.SkipAt(0)
	if err := disk.SyncDir(dir); err != nil {
		t.Error(err)
	}
	expect(t, outcomes(disk, "/srv/a", "/srv/b"), "a none", "none a")
	if n := len(disk.Ops()); n != 4 {
		t.Errorf("%d operations: %v", n, disk.Ops())
	}
}

func TestNothingIsDoneOnceThePowerHasFailed(t *testing.T) {
	disk := newDisk()
	disk.StopAt(1)
	save1, err := disk.Create("/srv/a", 0)
	if err != nil || disk.Stopped() {
		t.Fatal("the power failed too early", err)
	}
	for range 2 {
		if _, err := save1.Write([]byte("a")); !errors.Is(err, crashfs.ErrPowerCut) {
			t.Errorf("Write returned %v", err)
		}
	}
	if err := disk.Remove("/srv/a"); !errors.Is(err, crashfs.ErrPowerCut) || !disk.Stopped() {
		t.Errorf("Remove returned %v", err)
	}
	if got := look(disk.Kill(), "/srv/a"); got != "" {
		t.Errorf("there is %q", got)
	}
}

func TestTooManyOutcomesAreSampledBySeed(t *testing.T) {
	disk := newDisk()
	for _, name := range []string{"/srv/a", "/srv/b", "/srv/c"} {
		save(t, disk, name, "abcd", false, false)
	}
	if n := len(outcomes(disk, "/srv/a", "/srv/b", "/srv/c")); n != 125 {
		t.Errorf("%d outcomes of three files, want 5 to the power of 3", n)
	}
	sample := func(seed uint64) (texts []string) {
		for after := range disk.Crashes(20, seed) {
			texts = append(texts, look(after, "/srv/a")+look(after, "/srv/b")+look(after, "/srv/c"))
		}
		return texts
	}
	if one := sample(1); len(one) != 20 || !slices.Equal(one, sample(1)) || slices.Equal(one, sample(2)) || one[0] != "nonenonenone" {
		t.Errorf("samples %q and %q", one, sample(2))
	}
}

func TestLocksExcludeUntilTheyAreClosedOrTheProcessEnds(t *testing.T) {
	disk := newDisk()
	held, err := disk.Lock("/srv/l")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := disk.Lock("/srv/l"); !errors.Is(err, owner.ErrLocked) {
		t.Errorf("a second lock returned %v", err)
	}
	if _, err := disk.Kill().Lock("/srv/l"); err != nil {
		t.Errorf("after the process's end: %v", err)
	}
	_ = held.Close()
	again, err := disk.Lock("/srv/l")
	if err != nil {
		t.Errorf("after Close: %v", err)
	}
	_ = held.Close()
	if _, err := disk.Lock("/srv/l"); !errors.Is(err, owner.ErrLocked) {
		t.Error("the second Close of an old lock ended the new one")
	}
	_ = again.Close()
}

func TestErrorsAreThoseOfAnOperatingSystem(t *testing.T) {
	disk := newDisk()
	disk.WriteFile("/srv/a", []byte("abcd"))
	_, create := disk.Create("/srv/a", 0)
	_, long := disk.Create("/srv/"+strings.Repeat("x", 256), 0)
	_, below := disk.Create("/srv/a/b", 0)
	_, none := disk.ReadFile("/srv/b", 10)
	_, large := disk.ReadFile("/srv/a", 3)
	_, folder := disk.ReadFile("/srv", 3)
	for name, c := range map[string]struct{ got, want error }{
		"create what is there":    {create, fs.ErrExist},
		"create a long name":      {long, syscall.ENAMETOOLONG},
		"create below a file":     {below, syscall.ENOTDIR},
		"read what is not there":  {none, fs.ErrNotExist},
		"read too much":           {large, owner.ErrTooLarge},
		"read a folder":           {folder, owner.ErrIrregular},
		"rename nothing":          {disk.Rename("/srv/b", "/srv/c"), fs.ErrNotExist},
		"rename to a folder":      {disk.Rename("/srv/a", "/srv"), syscall.EXDEV},
		"remove nothing":          {disk.Remove("/srv/b"), fs.ErrNotExist},
		"remove a full folder":    {disk.Remove("/srv"), syscall.ENOTEMPTY},
		"make a folder again":     {disk.Mkdir("/srv", 0), fs.ErrExist},
		"make a folder nowhere":   {disk.Mkdir("/x/y", 0), fs.ErrNotExist},
		"sync a missing folder":   {disk.SyncDir("/x"), fs.ErrNotExist},
		"sync a file as a folder": {disk.SyncDir("/srv/a"), syscall.ENOTDIR},
	} {
		if !errors.Is(c.got, c.want) {
			t.Errorf("%s returned %v, want %v", name, c.got, c.want)
		}
	}
	if names := disk.Names(dir); !slices.Equal(names, []string{"a"}) {
		t.Errorf("there are %q", names)
	}
}
