// SPDX-License-Identifier: GPL-3.0-or-later

package migrate

import (
	"fmt"
	"math"
	"slices"
)

// quantile is the smallest of some numbers that the part q of them, from 0 to 1, does
// not exceed; 0 of none.
func quantile(list []float64, q float64) float64 {
	if len(list) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(list))
	rank := int(math.Ceil(q * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// median of some numbers, 0 of none.
func median(list []float64) float64 {
	if len(list) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(list))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// medianRatio is the median of the ratios within the rounds.
func medianRatio(list, others []float64) float64 {
	var ratios []float64
	for i, v := range list {
		if others[i] > 0 {
			ratios = append(ratios, v/others[i])
		}
	}
	return median(ratios)
}

// spread words the extremes.
func spread(list []float64) string {
	return fmt.Sprintf("%.2f to %.2f", slices.Min(list), slices.Max(list))
}
