// SPDX-License-Identifier: GPL-3.0-or-later

package host

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func env(pairs ...string) func(string) string {
	return func(key string) string {
		if i := slices.Index(pairs, key); i >= 0 {
			return pairs[i+1]
		}
		return ""
	}
}

func TestRunDirIsPrivateAndRemoved(t *testing.T) {
	base := folder(t)
	d, err := newRunDir(env("XDG_RUNTIME_DIR", base), nil)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(d.path); err != nil || st.Mode().Perm() != 0o700 || filepath.Dir(d.path) != base {
		t.Errorf("%s: %v, %v", d.path, st, err)
	}
	if err := d.remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(d.path); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", d.path, err)
	}
}

func TestRunDirPathsStayShort(t *testing.T) {
	base := folder(t)
	long := filepath.Join(base, strings.Repeat("x", 60))
	short, file := filepath.Join(base, "s"), filepath.Join(base, "f")
	for _, dir := range []string{long, short} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	put(t, file, "")
	for _, c := range []struct{ xdg, tmp, want string }{
		{short, base, short},
		{long, short, short},
		{"", short, short},
		{long, long, "/tmp"},
		{"", "", "/tmp"},
		{"relative", "/does/not/exist", "/tmp"},
		{file, short, short},
	} {
		if got := runDirBase(env("XDG_RUNTIME_DIR", c.xdg, "TMPDIR", c.tmp)); got != c.want {
			t.Errorf("XDG_RUNTIME_DIR=%s TMPDIR=%s: %s, want %s", c.xdg, c.tmp, got, c.want)
		}
	}
	// os.MkdirTemp and os.CreateTemp append a number of 32 bits, in decimal.
	longest := len(runDirPrefix) + len("/plugin-dir") + len("/plugin") + 3*10 + 1
	if maxBase+longest > 107 {
		t.Errorf("a socket's path can be %d bytes", maxBase+longest)
	}
}

func TestSweepRemovesOnlyWhatHostsLeftBehind(t *testing.T) {
	base := folder(t)
	make := func(name string, files ...string) string {
		dir := filepath.Join(base, runDirPrefix+name)
		for _, f := range append([]string{"."}, files...) {
			if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(f)), 0o700); err != nil {
				t.Fatal(err)
			}
			if f != "." && !strings.HasSuffix(f, "/.") {
				put(t, filepath.Join(dir, f), "")
			}
		}
		return dir
	}
	live, err := newRunDir(env("TMPDIR", base), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = live.remove() }()
	gone := map[string]string{
		"stale":          make("1", lockName, "plugin-dir1/plugin7", "plugin-dir2/."),
		"never locked":   make("2"),
		"without socket": make("3", lockName),
	}
	kept := map[string]string{
		"alive":            live.path,
		"foreign file":     make("4", lockName, "thesis.tex"),
		"foreign folder":   make("5", lockName, "src/main.c"),
		"foreign contents": make("6", lockName, "plugin-dir1/keep"),
		"other prefix":     filepath.Join(base, "flexnbd-ru-1"),
	}
	if err := os.Mkdir(kept["other prefix"], 0o700); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		kept["somebody's"] = make("7", lockName)
		if err := os.Chown(kept["somebody's"], 12345, 12345); err != nil {
			t.Fatal(err)
		}
	}
	kept["link"] = filepath.Join(base, runDirPrefix+"8")
	if err := os.Symlink(kept["other prefix"], kept["link"]); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-2 * youth)
	for _, dir := range []map[string]string{gone, kept} {
		for _, path := range dir {
			if err := os.Chtimes(path, old, old); err != nil {
				t.Fatal(err)
			}
		}
	}
	kept["young"] = make("9", lockName)

	sweep(base)
	for name, path := range gone {
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", name, err)
		}
	}
	for name, path := range kept {
		if _, err := os.Lstat(path); err != nil {
			t.Errorf("%s was removed: %v", name, err)
		}
	}
	for _, path := range []string{kept["foreign file"] + "/thesis.tex", kept["foreign folder"] + "/src/main.c", kept["foreign contents"] + "/plugin-dir1/keep", kept["foreign file"] + "/" + lockName, kept["foreign folder"] + "/" + lockName} {
		if _, err := os.Stat(path); err != nil {
			t.Errorf("foreign contents: %v", err)
		}
	}
}

func TestRunDirWithForeignContentsIsLeft(t *testing.T) {
	d, err := newRunDir(env("TMPDIR", folder(t)), nil)
	if err != nil {
		t.Fatal(err)
	}
	precious := put(t, filepath.Join(d.path, "precious"), "")
	if err := d.remove(); err == nil {
		t.Error("a folder with foreign contents is said to be removed")
	}
	if _, err := os.Stat(precious); err != nil {
		t.Error(err)
	}
}
