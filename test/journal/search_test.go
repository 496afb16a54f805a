// SPDX-License-Identifier: GPL-3.0-or-later

package journal

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/anishathalye/porcupine"
)

// randomHistory is a short history of few values, right or wrong by chance.
func randomHistory(r *rand.Rand) []event {
	var events []event
	for i := range 1 + r.IntN(9) {
		o := &operation{kind: kind(r.IntN(3)), writer: i, call: r.Int64N(20), answered: true}
		o.ret = o.call + r.Int64N(6)
		v := valueOf(1, 1+r.Uint64N(3))
		switch {
		case o.kind == zeroes || o.kind == read && r.IntN(3) == 0:
			v = zero
		case o.kind == write && r.IntN(6) == 0:
			o.ret, o.answered = open, false
		}
		events = append(events, event{o, v})
	}
	slices.SortStableFunc(events, func(a, b event) int { return compareTimes(a.call, b.call) })
	return events
}

func TestHistoryInPartsIsJudgedLikeTheWhole(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	verdicts := map[porcupine.CheckResult]int{}
	for range 5000 {
		events := randomHistory(r)
		whole := search(zero, events, 0)
		if inParts, _ := linearizable(events, 0); inParts != whole {
			for _, e := range events {
				t.Logf("%v %v %d-%d", e.kind, e.value, e.call, e.ret)
			}
			t.Fatalf("in parts it is %v, as a whole %v", inParts, whole)
		}
		verdicts[whole]++
	}
	if verdicts[porcupine.Ok] < 500 || verdicts[porcupine.Illegal] < 500 {
		t.Errorf("the histories are too much alike: %v", verdicts)
	}
}

// A final value that no read contradicts, and that Compare allows, is what the
// search allows as a last read, and the other way round.
func TestCompareAgreesWithTheSearch(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 5000 {
		changes := slices.DeleteFunc(randomHistory(r), func(e event) bool { return !e.changes() })
		for _, v := range []value{zero, valueOf(1, 1), valueOf(1, 2), valueOf(1, 3)} {
			last := event{&operation{kind: read, call: 100, ret: 101, answered: true}, v}
			verdict, _ := linearizable(append(slices.Clone(changes), last), 0)
			if mayBeFinal(changes, v) != (verdict == porcupine.Ok) {
				for _, e := range changes {
					t.Logf("%v %v %d-%d", e.kind, e.value, e.call, e.ret)
				}
				t.Fatalf("Compare allows %v: %v; the search says %v", v, mayBeFinal(changes, v), verdict)
			}
		}
	}
}
