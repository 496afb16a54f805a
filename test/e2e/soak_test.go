// SPDX-License-Identifier: GPL-3.0-or-later

//go:build soak

package e2e

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/flexnbd/flexnbd/bench/load"
	"github.com/flexnbd/flexnbd/bench/process"
)

// The limit is the manual's, two minutes, and no option shortens it.
func TestSoakKillswitch(t *testing.T) {
	t.Parallel()
	for _, handshake := range []string{"newstyle", "oldstyle"} {
		t.Run(handshake, func(t *testing.T) {
			t.Parallel()
			h := serveHeld(t, "--killswitch", "--handshake", handshake)
			begin := time.Now()
			w := h.startWrite()
			if err := w.cmd.Wait(); err == nil {
				t.Error("a write that was never carried out has succeeded")
			}
			if took := time.Since(begin); took < 119*time.Second || took > 140*time.Second {
				t.Errorf("the client was disconnected after %v, want 120 s", took)
			}
			if !strings.Contains(h.log.String(), "client disconnected, since one of its requests takes too long command=WRITE offset=4096") {
				t.Errorf("the log does not say so:\n%s", h.log.String())
			}
			// Its place is free once the backend has let go of the request.
			h.release()
			eventually(t, "the client is counted off", func() bool { return h.state()["num_clients"] == "0" })
		})
	}
}

// Ten million requests on connections that come and go leave nothing behind: no
// memory, no open file, in the server and in its plugins.
func TestSoakTenMillionRequests(t *testing.T) {
	for _, lane := range []string{laneFile, laneRing} {
		t.Run(lane, func(t *testing.T) { tenMillionRequests(t, lane) })
	}
}

func tenMillionRequests(t *testing.T, lane string) {
	const requests, size = 10_000_000, 256 << 20
	// What one tenth of the requests have left is what is needed. After that, the
	// memory may grow by what the garbage collector and the pools of buffers make of
	// it from one moment to the next. A leak of 2 bytes a request is more.
	const growth = 16 << 20
	runtime.GOMAXPROCS(10) // as package load wants it: its connections and two
	disk := filepath.Join(t.TempDir(), "disk")
	content := make([]byte, size)
	load.Fill(content, 0)
	if err := os.WriteFile(disk, content, 0o600); err != nil {
		t.Fatal(err)
	}
	content = nil
	s := serve(t, "--file", disk, "--lane", lane)
	s.wantLane(lane)
	files := s.openFiles()

	marks := []uint64{requests / 10, requests / 2, requests}
	var done uint64
	var first int64
	begin := time.Now()
	for round := uint64(1); len(marks) > 0; round++ {
		for _, w := range []struct {
			load.Workload
			time time.Duration
		}{
			{load.Workload{Connections: 8, Depth: 32, Block: 4 << 10, Reads: 70}, 2 * time.Second},
			{load.Workload{Connections: 1, Depth: 1, Block: 4 << 10, Reads: 50}, time.Second / 4},
			{load.Workload{Connections: 2, Depth: 16, Block: 64 << 10, Reads: 80}, time.Second / 4},
			{load.Workload{Connections: 2, Depth: 8, Block: 256 << 10, Reads: 100, Sequential: true}, time.Second / 4},
		} {
			done += s.load(w.Workload, w.time, round)
		}
		if done < marks[0] {
			continue
		}
		marks = marks[1:]
		eventually(t, "nobody is connected", func() bool { return s.state()["num_clients"] == "0" })
		memory, err := process.Memory(s.cmd.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		if first == 0 {
			first = memory
		}
		var now map[int]int
		eventually(t, "no more files are open than at first", func() bool {
			now = s.openFiles()
			for pid, n := range now {
				if n > files[pid] {
					return false
				}
			}
			return true
		})
		t.Logf("after %d requests in %v: %.1f MiB of memory, open files by process: %v, at first %v",
			done, time.Since(begin).Round(time.Second), float64(memory)/(1<<20), now, files)
		if memory > first+growth {
			t.Errorf("after %d requests the processes have %d MiB of memory, %d MiB more than after the first tenth",
				done, memory>>20, (memory-first)>>20)
		}
	}
	if state := s.state(); state["lane"] != lane || state["backend_restarts"] != "0" {
		t.Errorf("status: %v", state)
	}
}

// load makes requests for a while, and returns how many.
func (s *server) load(w load.Workload, d time.Duration, seed uint64) uint64 {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), d+patience)
	defer cancel()
	client, err := load.Open(ctx, s.addr, w, load.Options{})
	if err != nil {
		s.t.Fatal(err)
	}
	result, err := client.Run(ctx, d, seed, seed%8 == 0)
	if err != nil {
		s.t.Fatalf("%+v: %v", w, err)
	}
	if err := client.Close(); err != nil {
		s.t.Fatal(err)
	}
	return result.All
}

// openFiles is how many files the server and its plugins have open, by process.
func (s *server) openFiles() map[int]int {
	s.t.Helper()
	open := map[int]int{}
	for _, pid := range process.Tree(s.cmd.Process.Pid) {
		open[pid] = len(descriptors(s.t, pid))
	}
	return open
}
