// SPDX-License-Identifier: GPL-3.0-or-later

//go:build soak

package crash

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/flexnbd/flexnbd/core/failpoint"
	"github.com/flexnbd/flexnbd/test/journal"
)

// All bytes of the handshakes of later connections.
const (
	cutStep      = 1
	cutScenarios = 16
)

// setting is a number from the environment.
func setting(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		t.Fatalf("%s=%s: %v", name, text, err)
	}
	return n
}

// killsEach is how many processes die before one seed's disk comes to rest.
const killsEach = 25

func TestSoakOfRandomKills(t *testing.T) {
	kills, first := setting(t, "FLEXNBD_SOAK_KILLS", 300), setting(t, "FLEXNBD_SOAK_SEED", 1)
	var mu sync.Mutex
	total, points, moves, requests, longest := 0, map[string]int{}, 0, uint64(0), time.Duration(0)
	began := time.Now()
	t.Run("seeds", func(t *testing.T) {
		for seed := first; seed < first+(kills+killsEach-1)/killsEach; seed++ {
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				t.Parallel()
				r := newRoulette(t, seed)
				r.play(killsEach)
				t.Log(r)
				mu.Lock()
				defer mu.Unlock()
				for point, n := range r.killed {
					points[point] += n
				}
				total, moves, requests = total+r.kills(), moves+r.moves, requests+r.load.Acknowledged()
				longest = max(longest, r.load.Pauses(r.began, time.Now()).Longest())
			})
		}
	})
	var list, never []string
	for _, point := range slices.Sorted(maps.Keys(points)) {
		list = append(list, fmt.Sprintf("%s %d", point, points[point]))
	}
	for _, point := range failpoint.Points() {
		if points[point] == 0 {
			never = append(never, point)
		}
	}
	t.Logf("in all: %d kills, %d migrations, %d requests in %v; longest wait %v; killed at: %s; never at: %s",
		total, moves, requests, time.Since(began).Round(time.Second), longest.Round(time.Millisecond), strings.Join(list, ", "), strings.Join(never, ", "))
	if uint64(total) < kills {
		t.Errorf("%d kills of %d", total, kills)
	}
}

// Every cut there is; TestCrash, without the tag, leaves some out.
func TestSoakOfCuts(t *testing.T) {
	t.Run("handshake", func(t *testing.T) { t.Parallel(); cutHandshake(t) })
	t.Run("prepare", func(t *testing.T) { t.Parallel(); cutPrepare(t) })
	t.Run("commit", func(t *testing.T) { t.Parallel(); cutCommit(t) })
}

// A gigabyte under load, to the same address and to another, while the destination is
// killed once at a random moment of the copy.
func TestSoakOfLargeDisks(t *testing.T) {
	seeds, first := setting(t, "FLEXNBD_SOAK_SEEDS", 5), setting(t, "FLEXNBD_SOAK_SEED", 1)
	var pauses []time.Duration
	for seed := first; seed < first+seeds; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { pauses = append(pauses, large(t, seed)) })
	}
	slices.Sort(pauses)
	if len(pauses) > 0 {
		t.Logf("in all: %d migrations of 1 GiB; longest wait of a client: median %v, worst %v", len(pauses), pauses[len(pauses)/2], pauses[len(pauses)-1])
	}
}

// large returns how long a client has waited at most.
func large(t *testing.T, seed uint64) time.Duration {
	random := rand.New(rand.NewPCG(seed, 6))
	homes := []string{rebindNever, rebindOther, rebindToA}
	s := newScenario(t, setup{size: 1 << 30, fill: 512 << 20, rebind: homes[random.IntN(len(homes))], maxPause: 500 * time.Millisecond})
	s.options = journal.Options{Servers: s.options.Servers, Seed: seed, BytesPerSecond: 48 << 20, Patience: patience}
	s.start(nil, nil)
	began := time.Now()
	s.migrate(order{speed: 300 << 20})
	s.copies()
	time.Sleep(time.Duration(random.IntN(1500)) * time.Millisecond) // any moment
	killed := s.b.records().Incomplete != nil
	if killed {
		s.b.kill()
		s.b.restart()
	}
	s.a.ends(0)
	took := time.Since(began)
	s.finish(s.b)
	longest := s.load.Pauses(s.began, time.Now()).Longest().Round(time.Millisecond)
	writes, zeroes := s.load.Changes()
	t.Logf("seed %d: 1 GiB in %v, destination killed: %v, %d requests (%d changes), longest wait %v", seed, took.Round(time.Millisecond), killed, s.load.Acknowledged(), writes+zeroes, longest)
	return longest
}
