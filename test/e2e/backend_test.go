// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// backend is a storage that every test of what clients see is run against.
type backend struct {
	name string
	// disk makes an empty disk and returns the arguments that serve it.
	disk func(t *testing.T, size int64) []string
}

var backends = []backend{
	{"file", func(t *testing.T, size int64) []string {
		return []string{"--file", sparseFile(t, size)}
	}},
	{"memory", func(_ *testing.T, size int64) []string {
		return []string{"--backend", programs.memory, "--file", strconv.FormatInt(size, 10)}
	}},
}

// onEachBackend runs a test once for each backend.
func onEachBackend(t *testing.T, test func(t *testing.T, b backend)) {
	for _, b := range backends {
		t.Run(b.name, func(t *testing.T) { test(t, b) })
	}
}

// sparseFile makes a file that is one hole.
func sparseFile(t *testing.T, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}
