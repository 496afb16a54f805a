// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/flexnbd/flexnbd/sdk/fdstore/looptest"
)

// backend is a storage that every test of what clients see is run against.
type backend struct {
	name string
	// unit is what its sizes are multiples of, in bytes.
	unit int64
	// holes says whether a new disk is known to be one hole. A block device
	// does not say so.
	holes bool
	// disk makes an empty disk and returns the arguments that serve it.
	disk func(t *testing.T, size int64) []string
}

var (
	fileBackend = backend{"file", 1, true, func(t *testing.T, size int64) []string {
		return []string{"--file", sparseFile(t, size)}
	}}
	blockdevBackend = backend{"blockdev", 512, false, func(t *testing.T, size int64) []string {
		return []string{"--file", looptest.New(t, looptest.Options{Size: size}).Path}
	}}
	memoryBackend = backend{"memory", 1, true, func(_ *testing.T, size int64) []string {
		return []string{"--backend", programs.memory, "--file", strconv.FormatInt(size, 10)}
	}}
)

// size is the smallest size, from n bytes on, that a disk can have. A block device
// without any bytes is none.
func (b backend) size(n int64) int64 {
	if b.unit > 1 {
		n = max(n, 1)
	}
	return (n + b.unit - 1) / b.unit * b.unit
}

// setting is what a client meets: a storage, and how it gets there.
type setting struct {
	backend
	network string // tcp or unix
}

// serve serves an empty disk of b.size(size) bytes.
func (b setting) serve(t *testing.T, size int64, arguments ...string) *server {
	t.Helper()
	return serveIn(t, surroundings{network: b.network}, append(b.disk(t, b.size(size)), arguments...)...)
}

// onEachBackend runs a test once for each backend, and so at least once for each
// transport.
func onEachBackend(t *testing.T, test func(t *testing.T, b setting)) {
	for _, b := range []setting{{fileBackend, "tcp"}, {blockdevBackend, "unix"}, {memoryBackend, "tcp"}} {
		t.Run(b.name, func(t *testing.T) { test(t, b) })
	}
}

// onEverySetting runs a test, a quick one, for each backend on each transport.
func onEverySetting(t *testing.T, test func(t *testing.T, b setting)) {
	for _, storage := range []backend{fileBackend, blockdevBackend, memoryBackend} {
		for _, network := range []string{"tcp", "unix"} {
			t.Run(storage.name+"/"+network, func(t *testing.T) { test(t, setting{storage, network}) })
		}
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
