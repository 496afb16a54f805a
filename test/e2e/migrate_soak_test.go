// SPDX-License-Identifier: GPL-3.0-or-later

//go:build soak

package e2e

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

// soakSeeds are how many times each pair of storages migrates: FLEXNBD_SOAK_SEEDS, else
// 5.
func soakSeeds(t *testing.T) uint64 {
	t.Helper()
	text := os.Getenv("FLEXNBD_SOAK_SEEDS")
	if text == "" {
		return 5
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		t.Fatalf("FLEXNBD_SOAK_SEEDS=%s: %v", text, err)
	}
	return n
}

func TestSoakMigrateLive(t *testing.T) {
	for seed := range soakSeeds(t) {
		for _, pair := range everyPair {
			name := strings.Join([]string{strconv.FormatUint(seed, 10), pair.from.name, pair.from.lane, pair.to.name, pair.to.lane}, "-")
			t.Run(name, func(t *testing.T) { migrateLive(t, pair.from, pair.to, 1<<30, 1000+seed) })
		}
	}
}

func TestSoakMigrateKeepsSparse(t *testing.T) {
	for seed := range soakSeeds(t) {
		for _, pair := range everySparsePair {
			name := strings.Join([]string{strconv.FormatUint(seed, 10), pair.from.name, pair.from.lane, pair.to.name, pair.to.lane}, "-")
			t.Run(name, func(t *testing.T) { migrateKeepsSparse(t, pair.from, pair.to, 1<<30, 2000+seed, 1+int(seed%2)) })
		}
	}
}

func TestSoakMigrateConverges(t *testing.T) {
	migrateConverges(t, 32<<20, 60<<20, "20M")
}
