// SPDX-License-Identifier: GPL-3.0-or-later

package migrate

import "testing"

func TestQuantileIsTheSmallestThatEnoughDoNotExceed(t *testing.T) {
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[99-i] = float64(i + 1)
	}
	for _, c := range []struct {
		list    []float64
		q, want float64
	}{
		{nil, 0.5, 0},
		{[]float64{7}, 0.99, 7},
		{hundred, 0, 1},
		{hundred, 0.5, 50},
		{hundred, 0.99, 99},
		{hundred, 1, 100},
		{hundred[:60], 0.99, 100}, // of fewer than a hundred it is the largest
	} {
		if have := quantile(c.list, c.q); have != c.want {
			t.Errorf("quantile %v of %d numbers is %v, want %v", c.q, len(c.list), have, c.want)
		}
	}
}

func TestMedianOfAnEvenNumberIsBetween(t *testing.T) {
	if have := median([]float64{4, 1, 3, 2}); have != 2.5 {
		t.Errorf("median %v, want 2.5", have)
	}
	if have := median([]float64{9, 1, 2}); have != 2 {
		t.Errorf("median %v, want 2", have)
	}
}

func TestRatiosAreTakenWithinRounds(t *testing.T) {
	// The second round was ten times as slow for everybody; the third has no reference.
	if have := medianRatio([]float64{2, 30, 5}, []float64{1, 10, 0}); have != 2.5 {
		t.Errorf("median ratio %v, want 2.5", have)
	}
}

func TestEverybodyHasATurnAndBeginsAsOften(t *testing.T) {
	first := make(map[int]int)
	for round := range 12 {
		list := order(round, 3)
		seen := map[int]bool{}
		for _, n := range list {
			seen[n] = true
		}
		if len(list) != 3 || len(seen) != 3 {
			t.Fatalf("round %d has the order %d", round, list)
		}
		first[list[0]]++
	}
	for n := range 3 {
		if first[n] != 4 {
			t.Errorf("side %d begins %d rounds of 12", n, first[n])
		}
	}
}
