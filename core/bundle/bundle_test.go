// SPDX-License-Identifier: GPL-3.0-or-later

package bundle

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestBuiltBundleVerifies(t *testing.T) {
	dir := built(t, "1.0")
	b := opened(t, dir)
	if err := b.Verify(); err != nil {
		t.Fatal(err)
	}
	f, err := b.OpenExecutable()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if data, err := io.ReadAll(f); err != nil || string(data) != "#!/bin/sh\necho 1.0\n" {
		t.Errorf("executable is %q, %v", data, err)
	}
	for name, want := range map[string]os.FileMode{exeName: 0o755, "LICENSE": 0o644, ManifestFile: 0o644, SumsFile: 0o644, ".": 0o755} {
		if st, err := os.Stat(filepath.Join(dir, name)); err != nil || st.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want %v", name, st.Mode(), err, want)
		}
	}
	if b.Executable() != filepath.Join(dir, exeName) {
		t.Error(b.Executable())
	}
}

func TestBuildRefuses(t *testing.T) {
	exe := write(t, filepath.Join(folder(t), "exe"), "binary")
	large := write(t, filepath.Join(folder(t), "large"), "")
	if err := os.Truncate(large, 1<<40); err != nil {
		t.Fatal(err)
	}
	pipe := filepath.Join(folder(t), "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		change func(*Manifest)
		files  map[string]string
		says   string
	}{
		{func(m *Manifest) { m.Name = "" }, map[string]string{exeName: exe}, "name"},
		{func(m *Manifest) { m.Executable = "other" }, map[string]string{exeName: exe}, "is not among the files"},
		{nil, map[string]string{exeName: exe, "../LICENSE": exe}, "cannot be the name"},
		{nil, map[string]string{exeName: exe, "plugin.json": exe}, "cannot be the name"},
		{nil, map[string]string{exeName: exe, "SHA256SUMS": exe}, "cannot be the name"},
		{nil, map[string]string{exeName: filepath.Dir(exe)}, "not a regular file"},
		{nil, map[string]string{exeName: pipe}, "not a regular file"},
		{nil, map[string]string{exeName: exe + "x"}, "no such file"},
		{nil, map[string]string{exeName: large}, "too large"},
	} {
		m := manifest()
		if c.change != nil {
			c.change(&m)
		}
		in := folder(t)
		_, err := Build(filepath.Join(in, "x"), m, c.files)
		says(t, err, c.says, "build bundle "+in)
		unchanged(t, in, map[string]string{})
	}
	there := folder(t)
	_, err := Build(there, manifest(), map[string]string{exeName: exe})
	says(t, err, "exists")
}

func TestBuildFillsInWhatIsUsual(t *testing.T) {
	m := manifest()
	m.Schema, m.Executable = 0, ""
	b, err := Build(filepath.Join(folder(t), "x"), m, map[string]string{exeName: write(t, filepath.Join(folder(t), "exe"), "binary")})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if b.Manifest.Schema != Schema || b.Manifest.Executable != exeName {
		t.Errorf("%+v", b.Manifest)
	}
	if err := b.Verify(); err != nil {
		t.Error(err)
	}
}

func TestVerifyFindsEachFile(t *testing.T) {
	outside := write(t, filepath.Join(folder(t), "LICENSE"), "do as you like\n") // of the right digest
	for _, c := range []struct {
		what   string
		change func(t *testing.T, dir string)
		want   TamperedError
	}{
		{"changed file", func(t *testing.T, dir string) { write(t, filepath.Join(dir, exeName), "#!/bin/sh\necho 6.6\n") }, TamperedError{Changed: []string{exeName}}},
		{"changed manifest", func(t *testing.T, dir string) {
			m := manifest()
			m.Vendor = "another"
			write(t, filepath.Join(dir, ManifestFile), encoded(t, m))
		}, TamperedError{Changed: []string{ManifestFile}}},
		{"wrong sum", func(t *testing.T, dir string) {
			path := filepath.Join(dir, SumsFile)
			data, _ := os.ReadFile(path)
			lines := strings.SplitAfter(string(data), "\n")
			lines[0] = strings.Repeat("0", 64) + lines[0][64:]
			write(t, path, strings.Join(lines, ""))
		}, TamperedError{Changed: []string{"LICENSE"}}},
		{"longer file", func(t *testing.T, dir string) { _ = os.Truncate(filepath.Join(dir, "README+more.md"), 1<<20) }, TamperedError{Changed: []string{"README+more.md"}}},
		{"missing file", func(t *testing.T, dir string) { _ = os.Remove(filepath.Join(dir, "LICENSE")) }, TamperedError{Missing: []string{"LICENSE"}}},
		{"missing executable", func(t *testing.T, dir string) { _ = os.Remove(filepath.Join(dir, exeName)) }, TamperedError{Missing: []string{exeName}}},
		{"extra files", func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "lib.so"), "")
			write(t, filepath.Join(dir, ".hid\nden"), "")
			_ = os.Mkdir(filepath.Join(dir, "more"), 0o755)
		}, TamperedError{Extra: []string{".hid\nden", "lib.so", "more"}}},
		{"link to outside", func(t *testing.T, dir string) {
			_ = os.Remove(filepath.Join(dir, "LICENSE"))
			_ = os.Symlink(outside, filepath.Join(dir, "LICENSE"))
		}, TamperedError{Irregular: []string{"LICENSE"}}},
		{"link to inside", func(t *testing.T, dir string) {
			_ = os.Rename(filepath.Join(dir, "LICENSE"), filepath.Join(dir, "COPYING"))
			_ = os.Symlink("COPYING", filepath.Join(dir, "LICENSE"))
		}, TamperedError{Irregular: []string{"LICENSE"}, Extra: []string{"COPYING"}}},
		{"pipe", func(t *testing.T, dir string) {
			_ = os.Remove(filepath.Join(dir, "LICENSE"))
			_ = unix.Mkfifo(filepath.Join(dir, "LICENSE"), 0o644)
		}, TamperedError{Irregular: []string{"LICENSE"}}},
	} {
		t.Run(c.what, func(t *testing.T) {
			dir := built(t, "1.0")
			c.change(t, dir)
			err := opened(t, dir).Verify()
			if !errors.Is(err, ErrTampered) {
				t.Fatal(err)
			}
			got, ok := errors.AsType[*TamperedError](err)
			if !ok || !slices.Equal(got.Changed, c.want.Changed) || !slices.Equal(got.Missing, c.want.Missing) ||
				!slices.Equal(got.Extra, c.want.Extra) || !slices.Equal(got.Irregular, c.want.Irregular) {
				t.Errorf("got %v, want %v", err, &c.want)
			}
			if !printableError(err) {
				t.Errorf("%q", err)
			}
		})
	}
}

func TestVerifyRefuses(t *testing.T) {
	for _, c := range []struct {
		what   string
		change func(t *testing.T, dir string)
		says   string
	}{
		{"executable not listed", func(t *testing.T, dir string) {
			m := manifest()
			m.Executable = "other"
			write(t, filepath.Join(dir, ManifestFile), encoded(t, m))
			resum(t, dir)
		}, "does not list other"},
		{"manifest not listed", func(t *testing.T, dir string) {
			path := filepath.Join(dir, SumsFile)
			data, _ := os.ReadFile(path)
			write(t, path, strings.Replace(string(data), "  plugin.json", "  plugin.xml", 1))
		}, "does not list plugin.json"},
		{"executable not executable", func(t *testing.T, dir string) { _ = os.Chmod(filepath.Join(dir, exeName), 0o644) }, "chmod +x"},
		{"too many files", func(t *testing.T, dir string) {
			for i := range 64 {
				write(t, filepath.Join(dir, "x"+strings.Repeat("x", i)), "")
			}
		}, "more than 64 files"},
		{"too large a file", func(t *testing.T, dir string) { _ = os.Truncate(filepath.Join(dir, "LICENSE"), 1<<40) }, "too large"},
	} {
		t.Run(c.what, func(t *testing.T) {
			dir := built(t, "1.0")
			c.change(t, dir)
			says(t, opened(t, dir).Verify(), c.says, dir)
		})
	}
}

func TestVerifyComparesTheManifestThatWasRead(t *testing.T) {
	dir := built(t, "1.0")
	path := filepath.Join(dir, ManifestFile)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, strings.Replace(string(good), "Example", "Another", 1))
	b := opened(t, dir)
	write(t, path, string(good))
	if err := b.Verify(); !errors.Is(err, ErrTampered) {
		t.Errorf("a manifest that was changed for a moment: %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	for _, c := range []struct {
		what   string
		change func(dir string)
		says   string
	}{
		{"nothing", func(dir string) { _ = os.RemoveAll(dir) }, "no such file"},
		{"plain file", func(dir string) { _ = os.RemoveAll(dir); _ = os.WriteFile(dir, nil, 0o644) }, "not a directory"},
		{"link", func(dir string) { _ = os.Rename(dir, dir+"2"); _ = os.Symlink(dir+"2", dir) }, "not a directory"},
		{"no manifest", func(dir string) { _ = os.Remove(filepath.Join(dir, ManifestFile)) }, "plugin.json: no such file"},
		{"no sums", func(dir string) { _ = os.Remove(filepath.Join(dir, SumsFile)) }, "SHA256SUMS: no such file"},
		{"manifest is a link", func(dir string) {
			path := filepath.Join(dir, ManifestFile)
			_ = os.Rename(path, filepath.Join(dir, "x"))
			_ = os.Symlink("x", path)
		}, "not a regular file"},
		{"sums are a folder", func(dir string) {
			_ = os.Remove(filepath.Join(dir, SumsFile))
			_ = os.Mkdir(filepath.Join(dir, SumsFile), 0o755)
		}, "not a regular file"},
		{"endless sums", func(dir string) { _ = os.Truncate(filepath.Join(dir, SumsFile), 1<<40) }, "longer than 65536"},
		{"bad manifest", func(dir string) { _ = os.WriteFile(filepath.Join(dir, ManifestFile), []byte("{}"), 0o644) }, "schema"},
	} {
		t.Run(c.what, func(t *testing.T) {
			dir := built(t, "1.0")
			c.change(dir)
			for _, path := range []string{dir, dir + "/"} {
				_, err := Open(path)
				says(t, err, c.says, dir)
				if !errors.Is(err, ErrNotBundle) {
					t.Error(err)
				}
			}
		})
	}
}

func TestOpenExecutableRefusesWhatChanged(t *testing.T) {
	dir := built(t, "1.0")
	b := opened(t, dir)
	path := filepath.Join(dir, exeName)
	write(t, path, "#!/bin/sh\necho 6.6\n")
	if _, err := b.OpenExecutable(); !errors.Is(err, ErrTampered) {
		t.Errorf("changed: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/bin/sh", path); err != nil {
		t.Fatal(err)
	}
	_, err := b.OpenExecutable()
	says(t, err, "not a regular file", dir, exeName)
}

// An open bundle stays the one that was opened.
func TestBundleKeepsToItsFolder(t *testing.T) {
	dir := built(t, "1.0")
	b := opened(t, dir)
	if err := os.Rename(dir, dir+".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(built(t, "2.0"), dir); err != nil {
		t.Fatal(err)
	}
	f, err := b.OpenExecutable()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if data, _ := io.ReadAll(f); !strings.Contains(string(data), "1.0") {
		t.Errorf("%q", data)
	}
}

// A link that takes a folder's or a file's place between looking and opening leads
// nowhere else.
func TestOpenedIsWhatWasLookedAt(t *testing.T) {
	one, other := folder(t), folder(t)
	before, err := os.Lstat(one)
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(other)
	if err != nil {
		t.Fatal(err)
	}
	_, err = sameFolder(root, before)
	says(t, err, other, "replaced while it was opened")
}
