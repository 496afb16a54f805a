// SPDX-License-Identifier: GPL-3.0-or-later

package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const exeName = "flexnbd-backend-memory"

// manifest is a good one.
func manifest() Manifest {
	return Manifest{
		Schema: Schema, Kind: "backend", Name: "memory", Version: "1.0",
		Vendor: "Example Müller GmbH", Homepage: "https://example.org/", License: "Apache-2.0",
		ProtocolVersions: []int{1}, SDKVersion: "0.1.0", MinCore: "0.1.0",
		Platforms: []string{"linux/amd64"}, Capabilities: []string{"lend"},
		Executable: exeName,
	}
}

// folder is a plugin folder, or one for what else is needed.
func folder(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func write(t testing.TB, path, data string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// built is the folder of a good bundle, whose binary says version.
func built(t testing.TB, version string, change ...func(*Manifest)) string {
	t.Helper()
	from := folder(t)
	m := manifest()
	m.Version = version
	for _, c := range change {
		c(&m)
	}
	dir := filepath.Join(folder(t), "any")
	b, err := Build(dir, m, map[string]string{
		m.Executable:     write(t, filepath.Join(from, "exe"), "#!/bin/sh\necho "+version+"\n"),
		"LICENSE":        write(t, filepath.Join(from, "LICENSE"), "do as you like\n"),
		exeName + ".7":   write(t, filepath.Join(from, "page"), ".Dd today\n"),
		"README+more.md": write(t, filepath.Join(from, "README"), ""),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

func opened(t testing.TB, dir string) *Bundle {
	t.Helper()
	b, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func packed(t testing.TB, dir string) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := Pack(&out, opened(t, dir), time.Time{}); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// resum makes SHA256SUMS right again after files were changed.
func resum(t testing.TB, dir string) {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	names, err := list(root, 1000)
	if err != nil {
		t.Fatal(err)
	}
	s := Sums{}
	for _, name := range names {
		f, st, err := openRegular(root, name)
		if err != nil || name == SumsFile {
			continue
		}
		if s[name], err = digest(f, st.Size()); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	var out bytes.Buffer
	if err := s.Encode(&out); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, SumsFile), out.String())
}

// snapshot is everything there is below dir: two that are equal show that nothing was
// changed, not even for other files of the same contents.
func snapshot(t testing.TB, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		var data []byte
		if d.Type().IsRegular() {
			if data, err = os.ReadFile(path); err != nil {
				return err
			}
		}
		all[path] = fmt.Sprintf("%o %d %d %q", st.Mode, st.Ino, st.Size, data)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func unchanged(t testing.TB, dir string, before map[string]string) {
	t.Helper()
	if after := snapshot(t, dir); !maps.Equal(before, after) {
		t.Errorf("%s was changed:\nbefore: %v\nafter:  %v", dir, before, after)
	}
}

// says fails unless err has all of the words.
func says(t testing.TB, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error; want one that says %q", words)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
}

// tarEntry is for tarballs that no honest packer makes.
type tarEntry struct {
	name, data string
	kind       byte   // '0' if not set
	link       string // where to
	size       int64  // said instead of data's
}

func raw(e tarEntry) []byte {
	var h [512]byte
	size := e.size
	if size == 0 {
		size = int64(len(e.data))
	}
	if e.kind == 0 {
		e.kind = tar.TypeReg
	}
	copy(h[0:100], e.name)
	copy(h[100:], "0007777\x00")
	copy(h[108:], "0000000\x00")
	copy(h[116:], "0000000\x00")
	copy(h[124:], fmt.Sprintf("%011o\x00", size))
	copy(h[136:], "00000000000\x00")
	h[156] = e.kind
	copy(h[157:257], e.link)
	copy(h[257:], "ustar\x0000")
	copy(h[148:], "        ")
	sum := 0
	for _, b := range h {
		sum += int(b)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	out := append(h[:], e.data...)
	return append(out, make([]byte, -len(out)&511)...)
}

var tarEnd = make([]byte, 1024)

func gzipped(t testing.TB, data ...[]byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	for _, d := range data {
		if _, err := z.Write(d); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func tarball(t testing.TB, entries ...tarEntry) []byte {
	t.Helper()
	var all [][]byte
	for _, e := range entries {
		all = append(all, raw(e))
	}
	return gzipped(t, append(all, tarEnd)...)
}

// gunzip returns the tarball's tar.
func gunzip(t testing.TB, data []byte) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	all, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return all
}
