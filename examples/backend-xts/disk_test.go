// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/flexnbd/flexnbd/sdk"
	"github.com/flexnbd/flexnbd/sdk/store"
)

// testDisk is an image and a key file in a folder of their own.
type testDisk struct {
	sdk.Disk
	key string
}

// newDisk makes a new image for a disk of size bytes, and a key file, in a folder
// below parent. Nothing has opened them yet.
func newDisk(t testing.TB, parent string, size int64) *testDisk {
	t.Helper()
	dir, err := os.MkdirTemp(parent, "xts-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	d := &testDisk{key: filepath.Join(dir, "key")}
	d.Location = filepath.Join(dir, "image")
	d.Options = map[string]string{"key": d.key}
	writeFile(t, d.key, randomBytes(keySize), 0o600)
	writeFile(t, d.Location, nil, 0o600)
	if err := os.Truncate(d.Location, headerSize+size); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *testDisk) open(t testing.TB) (store.Store, error) {
	t.Helper()
	return open(t.Context(), d.Disk)
}

func (d *testDisk) mustOpen(t testing.TB) store.Store {
	t.Helper()
	s, err := d.open(t)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// with opens the disk, lets use have it, and closes it.
func (d *testDisk) with(t testing.TB, use func(s store.Store)) {
	t.Helper()
	s := d.mustOpen(t)
	use(s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func (d *testDisk) format(t testing.TB) { t.Helper(); d.with(t, func(store.Store) {}) }

// raw is what is in the file.
func (d *testDisk) raw(t testing.TB) []byte {
	t.Helper()
	content, err := os.ReadFile(d.Location)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// patch writes to the file behind the backend's back.
func (d *testDisk) patch(t testing.TB, content []byte, off int64) {
	t.Helper()
	f, err := os.OpenFile(d.Location, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(content, off); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// allocated is the space that the file takes, in bytes.
func (d *testDisk) allocated(t testing.TB) int64 {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(d.Location, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

// refused ends the test unless the disk can't be opened, for a reason that says
// the words and reaches a client as errno, and the file stays what it was.
func (d *testDisk) refused(t *testing.T, errno error, words ...string) {
	t.Helper()
	before, space := sha256.Sum256(d.raw(t)), d.allocated(t)
	s, err := d.open(t)
	if err == nil {
		_ = s.Close()
		t.Fatal("the disk was opened")
	}
	wantError(t, err, errno, words...)
	if sha256.Sum256(d.raw(t)) != before || d.allocated(t) != space {
		t.Fatal("the refused image was changed")
	}
}

func wantError(t *testing.T, err, errno error, words ...string) {
	t.Helper()
	if err == nil || store.Errno(err) != errno {
		t.Fatalf("error is %v, want one that wraps %v", err, errno)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Fatalf("error %q does not say %q", err, w)
		}
	}
}

func wantBytes(t *testing.T, s store.Store, off int64, want []byte) {
	t.Helper()
	got := randomBytes(len(want))
	if err := s.ReadAt(t.Context(), got, off); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("the %d bytes at %d are not what was expected", len(want), off)
	}
}

func write(t testing.TB, s store.Store, off int64, p []byte) {
	t.Helper()
	if err := s.WriteAt(t.Context(), p, off, 0); err != nil {
		t.Fatal(err)
	}
}

func writeFile(t testing.TB, path string, content []byte, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask
		t.Fatal(err)
	}
}

func randomBytes(n int) []byte {
	p := make([]byte, n)
	_, _ = rand.Read(p) // never fails
	return p
}
