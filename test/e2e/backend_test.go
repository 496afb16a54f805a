// SPDX-License-Identifier: GPL-3.0-or-later

package e2e

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/flexnbd/flexnbd/sdk/fdstore/looptest"
)

// The lanes that data takes between the server and a backend, as --lane and status
// name them.
const (
	laneFile = "file"
	laneRing = "ring"
	laneRPC  = "rpc"
)

// backend is a storage that every test of what clients see is run against.
type backend struct {
	name string
	// lanes are those that it has. The first is taken unless the command line
	// says another one.
	lanes []string
	// unit is what its sizes are multiples of, in bytes.
	unit int64
	// holes says whether a new disk is known to be one hole. A block device
	// does not say so.
	holes bool
	// disk makes an empty disk and returns the arguments that serve it.
	disk func(t *testing.T, size int64) []string
}

var (
	fileBackend = backend{"file", []string{laneFile, laneRing, laneRPC}, 1, true, func(t *testing.T, size int64) []string {
		return []string{"--file", sparseFile(t, size)}
	}}
	blockdevBackend = backend{"blockdev", []string{laneFile, laneRing, laneRPC}, 512, false, func(t *testing.T, size int64) []string {
		return []string{"--file", looptest.New(t, looptest.Options{Size: size}).Path}
	}}
	memoryBackend = backend{"memory", []string{laneRing, laneRPC}, 1, true, func(_ *testing.T, size int64) []string {
		return []string{"--file", strconv.FormatInt(size, 10), "--backend", programs.memory}
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

// setting is what a client meets: a storage, how its data gets to the server, and
// how the server is reached.
type setting struct {
	backend
	lane    string
	network string // tcp or unix
}

// arguments are those that serve an empty disk of b.size(size) bytes; the second
// says where it is.
func (b setting) arguments(t *testing.T, size int64) []string {
	t.Helper()
	arguments := b.disk(t, b.size(size))
	if b.lane != b.lanes[0] {
		arguments = append(arguments, "--lane", b.lane)
	}
	return arguments
}

// serve serves an empty disk of b.size(size) bytes.
func (b setting) serve(t *testing.T, size int64, arguments ...string) *server {
	t.Helper()
	s := serveIn(t, surroundings{network: b.network}, append(b.arguments(t, size), arguments...)...)
	s.wantLane(b.lane)
	return s
}

// wantLane checks what status says about the lane.
func (s *server) wantLane(lane string) {
	s.t.Helper()
	if got := s.state()["lane"]; got != lane {
		s.t.Fatalf("status says lane=%s, want %s\n%s", got, lane, s.log.String())
	}
}

// onEachBackend runs a test for each backend, and with each lane and each transport once
// at least.
func onEachBackend(t *testing.T, test func(t *testing.T, b setting)) {
	on(t, test, fileOnFile, fileOnRing, blockdevOnFile, blockdevOnRPC, memoryOnRing)
}

// onEachBackendOnce is onEachBackend for what takes longer: a block device is used on
// its fastest lane only.
func onEachBackendOnce(t *testing.T, test func(t *testing.T, b setting)) {
	on(t, test, fileOnFile, fileOnRPC, blockdevOnFile, memoryOnRing)
}

var (
	fileOnFile     = setting{fileBackend, laneFile, "tcp"}
	fileOnRing     = setting{fileBackend, laneRing, "unix"}
	fileOnRPC      = setting{fileBackend, laneRPC, "unix"}
	blockdevOnFile = setting{blockdevBackend, laneFile, "unix"}
	blockdevOnRPC  = setting{blockdevBackend, laneRPC, "tcp"}
	memoryOnRing   = setting{memoryBackend, laneRing, "tcp"}
	memoryOnRPC    = setting{memoryBackend, laneRPC, "tcp"}
)

// on runs a test for some settings.
func on(t *testing.T, test func(t *testing.T, b setting), settings ...setting) {
	for _, b := range settings {
		t.Run(b.name+"/"+b.lane, func(t *testing.T) { test(t, b) })
	}
}

// onEachLane runs a test once for each lane that a file can take.
func onEachLane(t *testing.T, test func(t *testing.T, lane string)) {
	for _, lane := range fileBackend.lanes {
		t.Run(lane, func(t *testing.T) { test(t, lane) })
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
