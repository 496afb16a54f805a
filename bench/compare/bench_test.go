// SPDX-License-Identifier: GPL-3.0-or-later

package compare

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/flexnbd/flexnbd/bench/load"
	"github.com/flexnbd/flexnbd/bench/process"
)

// small is a bench of the servers that takes a moment. It works on the main thread's
// behalf: servers are killed when the thread ends that started them.
func small(t *testing.T, out io.Writer, servers ...server) *bench {
	t.Helper()
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	t.Setenv("TMPDIR", t.TempDir())
	t.Setenv("GORACE", "atexit_sleep_ms=0") // else fake servers end a second late
	if err := adopt(); err != nil {
		t.Fatal(err)
	}
	b := &bench{
		options: Options{Rounds: 3, Slice: 4 * time.Millisecond, Size: 8 * mib},
		servers: servers,
		scenarios: []scenario{
			{"reads", load.Workload{Connections: 2, Depth: 4, Block: 4 * kib, Reads: 100}},
			{"writes", load.Workload{Connections: 1, Depth: 4, Block: 64 * kib, Sequential: true}},
		},
		out: out,
	}
	for _, s := range servers {
		b.results.Servers = append(b.results.Servers, ServerFacts{Name: s.name, Lane: s.lane, Idle: map[string]int64{}})
	}
	return b
}

// named are media below the temporary folder, on whatever file system that is.
func named(t *testing.T, names ...string) []medium {
	t.Helper()
	chosen, err := selectMedia(names)
	if err != nil {
		t.Fatal(err)
	}
	return chosen
}

func ours(s server) server { s.lane = "file"; return s }

// cleared fails the test if anything is left of a run.
func cleared(t *testing.T) {
	t.Helper()
	if entries, err := os.ReadDir(os.TempDir()); err != nil || len(entries) > 0 {
		t.Errorf("left in the temporary folder: %v, %v", entries, err)
	}
	if list := leftOver(t, os.TempDir()); len(list) > 0 {
		t.Errorf("processes %v still run", list)
	}
}

func TestAllServersAreMeasuredInAllRounds(t *testing.T) {
	var out bytes.Buffer
	b := small(t, &out, ours(fakeKind("flexnbd-file", "plain")), fakeKind("a", "family"), fakeKind("b", "daemon"))
	b.media = named(t, "ext4", "uncached")
	if err := b.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	cleared(t)
	var have []string
	for _, table := range b.results.Tables {
		have = append(have, table.Medium+" "+table.Scenario)
		if table.BestPeer != "a" && table.BestPeer != "b" {
			t.Errorf("%s: the best peer is %q", table.Scenario, table.BestPeer)
		}
		for _, s := range table.Series {
			if len(s.Rounds) != 3 || s.Rate <= 0 || s.CPU <= 0 || s.ClientCPU <= 0 || s.Memory <= 0 || s.Latency.P50 <= 0 || s.Latency.P999 < s.Latency.P50 {
				t.Errorf("%s of %s: %+v", s.Server, table.Scenario, s)
			}
		}
	}
	if want := []string{"ext4 reads", "ext4 writes", "uncached reads", "uncached writes"}; !slices.Equal(have, want) {
		t.Errorf("there are tables of %q, want %q", have, want)
	}
	if rows := strings.Count(out.String(), "flexnbd-file"); rows != len(have) {
		t.Errorf("%d rows of flexnbd in\n%s", rows, &out)
	}
	for _, s := range b.results.Servers {
		if s.Idle["ext4"] <= 0 || len(s.Command) == 0 {
			t.Errorf("facts of %s: %+v", s.Name, s)
		}
	}
}

func TestReportsAreComplete(t *testing.T) {
	b := small(t, io.Discard, ours(fakeKind("flexnbd-file", "plain")), fakeKind("peer", "plain"))
	b.media = named(t, "ext4")
	if err := b.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(t.TempDir(), "new")
	if err := b.results.write(folder); err != nil {
		t.Fatal(err)
	}
	var again Results
	text, err := os.ReadFile(filepath.Join(folder, "results.json"))
	if err := errors.Join(err, json.Unmarshal(text, &again)); err != nil {
		t.Fatal(err)
	}
	if len(again.Tables) != 2 || len(again.Tables[0].Series[1].Rounds) != 3 {
		t.Errorf("results.json has %+v", again.Tables)
	}
	table, err := os.ReadFile(filepath.Join(folder, "results.txt"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"best peer", "reads", "writes", "flexnbd-file", "/ peer", fakeServer} {
		if !strings.Contains(string(table), want) {
			t.Errorf("results.txt lacks %q:\n%s", want, table)
		}
	}
	for _, plot := range []string{"rate", "cpu", "latency"} {
		svg, err := os.ReadFile(filepath.Join(folder, plot+"-ext4.svg"))
		if err != nil {
			t.Fatal(err)
		}
		d := xml.NewDecoder(bytes.NewReader(svg))
		for err == nil {
			_, err = d.Token()
		}
		if !errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", plot, err)
		}
		for _, bad := range []string{"NaN", "Inf"} {
			if bytes.Contains(svg, []byte(bad)) {
				t.Errorf("%s has a %s", plot, bad)
			}
		}
	}
}

func TestServerThatDoesNotStartIsExplained(t *testing.T) {
	b := small(t, io.Discard, fakeKind("good", "plain"), fakeKind("bad", "broken"))
	b.media = named(t, "ext4")
	err := b.run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "bad") || !strings.Contains(err.Error(), "fake server: cannot serve") {
		t.Errorf("the error is %v", err)
	}
	cleared(t)
}

func TestServerThatHangsUpEndsTheRun(t *testing.T) {
	b := small(t, io.Discard, fakeKind("good", "plain"), fakeKind("bad", "deaf"))
	b.options.Slice = time.Second
	b.media = named(t, "ext4")
	if err := b.run(t.Context()); err == nil || !strings.Contains(err.Error(), "bad: ") || !strings.Contains(err.Error(), "scenario reads") {
		t.Errorf("the error is %v", err)
	}
	cleared(t)
}

func TestInterruptClearsEverythingAway(t *testing.T) {
	for _, kind := range []string{"plain", "daemon", "family"} {
		t.Run(kind, func(t *testing.T) {
			b := small(t, io.Discard, fakeKind("a", kind))
			b.options.Slice = time.Minute
			b.media = named(t, "ext4")
			ctx, cancel := context.WithCancelCause(t.Context())
			stopped := errors.New("interrupted by the test")
			folder := os.TempDir()
			var watch sync.WaitGroup
			watch.Go(func() {
				if !underLoad(t, folder) {
					t.Error("no server comes under load")
				}
				cancel(stopped)
			})
			if err := b.run(ctx); !errors.Is(err, stopped) {
				t.Errorf("the error is %v", err)
			}
			watch.Wait()
			cleared(t)
		})
	}
}

// underLoad waits until a fake server has done more than to start.
func underLoad(t *testing.T, image string) bool {
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(retry) {
		for _, pid := range leftOver(t, image) {
			if took, err := process.CPUTime(pid); err == nil && took > 300*time.Millisecond {
				return true
			}
		}
	}
	return false
}

func TestEveryServerHasEveryPlaceEquallyOften(t *testing.T) {
	const n = 5
	var places [n][n]int
	for round := range 2 * n {
		list := order(round, n)
		for place, server := range list {
			places[server][place]++
		}
		if sorted := slices.Sorted(slices.Values(list)); !slices.Equal(sorted, []int{0, 1, 2, 3, 4}) {
			t.Errorf("round %d has the order %v", round, list)
		}
	}
	for server := range places {
		for place, times := range places[server] {
			if times != 2 {
				t.Errorf("in 10 rounds server %d has place %d %d times", server, place, times)
			}
		}
	}
}
