// SPDX-License-Identifier: GPL-3.0-or-later

package journal

import (
	"fmt"
	"slices"
	"sort"

	"github.com/anishathalye/porcupine"
)

// explain adds a complaint about a sector whose history is not linearizable: the
// first read that can't be explained, and what it could have found instead.
func (j *judge) explain(sector int64, events []event) {
	if j.wrong.full() {
		j.wrong.add(sector, "") // counted
		return
	}
	reads := slices.DeleteFunc(slices.Clone(events), func(e event) bool { return e.changes() })
	slices.SortStableFunc(reads, func(a, b event) int { return compareTimes(a.ret, b.ret) })
	n := sort.Search(len(reads), func(n int) bool { return !j.legal(until(events, reads[n])) })
	if n == len(reads) {
		j.wrong.add(sector, "the history of %d requests has no order, and takes too long to explain", len(events))
		return
	}
	bad := reads[n]
	before := until(events, bad)
	j.wrong.add(sector, "%s found %s; allowed: %s", reader(bad), written(bad, before), list(j.allowed(before, bad)))
}

func (j *judge) legal(events []event) bool {
	verdict, _ := linearizable(events, j.patience())
	return verdict != porcupine.Illegal
}

// until returns the history as it was known when r returned.
func until(events []event, r event) []event {
	var known []event
	for _, e := range events {
		if e.changes() && e.call <= r.ret || !e.changes() && e.ret <= r.ret {
			known = append(known, e)
		}
	}
	return known
}

// maxAllowed is how many writes, from the newest on, are tried in a read's place.
const maxAllowed = 16

// allowed returns what would have been right for the read bad to find.
func (j *judge) allowed(events []event, bad event) []string {
	candidates := []event{{&initial, zero}}
	for _, e := range events {
		if e.changes() {
			candidates = append(candidates, e)
		}
	}
	var texts []string
	tried := map[value]bool{bad.value: true}
	for i := len(candidates) - 1; i >= 0 && i >= len(candidates)-maxAllowed; i-- {
		c := candidates[i]
		if tried[c.value] {
			continue
		}
		tried[c.value] = true
		instead := slices.Clone(events)
		for k := range instead {
			if instead[k].operation == bad.operation {
				instead[k].value = c.value
			}
		}
		if j.legal(instead) {
			texts = append(texts, wordings([]event{c})...)
		}
	}
	return texts
}

// written names the value that a read found, and when it was written.
func written(r event, events []event) string {
	for _, e := range slices.Backward(events) {
		if e.changes() && e.value == r.value {
			return fmt.Sprintf("%v (%s)", e.value, e.times())
		}
	}
	if r.value == zero {
		return "zeroes, as at the beginning"
	}
	return fmt.Sprintf("%v, which had not been written here", r.value)
}

// reader names a read.
func reader(e event) string {
	if e.image {
		return "the image"
	}
	return fmt.Sprintf("the read of connection %d (%s)", e.writer, e.times())
}

// describeEvent says what a read found that is no write's.
func describeEvent(e event, tag uint64, sector int64) string {
	if b := e.raw[sector]; b != nil {
		return describe(b, tag, sector)
	}
	return "one of too many sectors that are no write's"
}
